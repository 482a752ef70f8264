# ResNet-18 at the size of digits_backbone.py: 20 channels instead of 64. It is
# initialised as mmpretrain does, there is no linear layer.
backbone = dict(
    _delete_=True,
    type="mmpretrain.ResNet",
    depth=18,
    stem_channels=20,
    base_channels=20,
    out_indices=(0, 1, 2, 3),
)
widths = [20, 40, 80, 160]
classifier = dict(
    type="Pretrained",
    checkpoint="ablation_output/backbones/classifier_resnet/seed_0/epoch_12.pth",
    prefix="backbone.",
)
