_base_ = ["./upernet_pretrained_setformer.py", "../_base_/models/digits_swin.py"]

ablation = dict(name="Swin")

model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.classifier),
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2], channels=_base_.widths[2]),
)
