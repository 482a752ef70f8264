_base_ = ["./classifier_setformer.py", "../_base_/models/digits_swin.py"]

ablation = dict(name="Swin")

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,)),
    head=dict(in_channels=_base_.widths[-1]),
)
