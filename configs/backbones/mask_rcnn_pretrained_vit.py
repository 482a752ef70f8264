_base_ = ["./mask_rcnn_pretrained_setformer.py", "../_base_/models/digits_vit.py"]

ablation = dict(name="ViT with windows")

model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.classifier),
    neck=[_base_.pyramid, dict(_base_.model.neck, in_channels=_base_.widths)],
)
