_base_ = ["./mask_rcnn_scratch_setformer.py", "../_base_/models/digits_convnext.py"]

ablation = dict(name="ConvNeXt")

model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.widths),
)
