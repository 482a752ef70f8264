_base_ = ["./upernet_scratch_setformer.py", "../_base_/models/digits_pvtv2.py"]

ablation = dict(name="PVTv2")

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2], channels=_base_.widths[2]),
)
