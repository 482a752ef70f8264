_base_ = ["./segformer_scratch_setformer.py", "../_base_/models/digits_convnext.py"]

ablation = dict(name="ConvNeXt")

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.widths),
)
