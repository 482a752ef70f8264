_base_ = ["./mask_rcnn_scratch_setformer.py", "../_base_/models/digits_resnet.py"]

ablation = dict(name="ResNet")

model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.widths),
)
