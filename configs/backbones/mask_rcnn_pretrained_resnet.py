_base_ = ["./mask_rcnn_pretrained_setformer.py", "../_base_/models/digits_resnet.py"]

ablation = dict(name="ResNet")

model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.classifier),
    neck=dict(in_channels=_base_.widths),
)
