_base_ = ["./classifier_setformer.py", "../_base_/models/digits_resnet.py"]

ablation = dict(name="ResNet")

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,)),
    head=dict(in_channels=_base_.widths[-1]),
)
