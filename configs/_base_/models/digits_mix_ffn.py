# The backbone of digits_backbone.py with a convolution in each MLP, which the paper's
# blocks do not have.
backbone = dict(mix_ffn=True)
classifier = dict(
    checkpoint="ablation_output/backbones/classifier_setformer_mix_ffn/seed_0/epoch_12.pth"
)
