_base_ = ["./segformer_scratch_setformer.py", "../_base_/models/digits_pvtv2.py"]

ablation = dict(name="PVTv2")

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.widths),
)
