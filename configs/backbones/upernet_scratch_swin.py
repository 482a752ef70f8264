_base_ = ["./upernet_scratch_setformer.py", "../_base_/models/digits_swin.py"]

ablation = dict(name="Swin")

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2], channels=_base_.widths[2]),
)
