_base_ = ["./upernet_pretrained_setformer.py", "../_base_/models/digits_vit.py"]

ablation = dict(name="ViT with windows")

model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.classifier),
    neck=_base_.pyramid,
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2], channels=_base_.widths[2]),
)
