_base_ = ["./segformer_scratch_setformer.py", "../_base_/models/digits_vit.py"]

ablation = dict(name="ViT with windows")

model = dict(
    backbone=_base_.backbone,
    neck=_base_.pyramid,
    decode_head=dict(in_channels=_base_.widths),
)
