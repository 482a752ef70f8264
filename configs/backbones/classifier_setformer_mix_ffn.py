# With a convolution in each MLP, which the paper's blocks do not have.
_base_ = "./classifier_setformer.py"

ablation = dict(name="SeTformer, Mix-FFN")

model = dict(backbone=dict(mix_ffn=True))
