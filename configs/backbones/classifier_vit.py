_base_ = ["./classifier_setformer.py", "../_base_/models/digits_vit.py"]

ablation = dict(name="ViT with windows")

model = dict(
    backbone=dict(_base_.backbone, out_indices=[4]),
    head=dict(in_channels=_base_.widths[-1]),
)
