_base_ = ["./classifier_setformer.py", "../_base_/models/digits_pvtv2.py"]

ablation = dict(name="PVTv2")

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,)),
    head=dict(in_channels=_base_.widths[-1]),
)
