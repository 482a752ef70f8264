_base_ = ["./segformer_scratch_setformer.py", "../_base_/models/digits_resnet.py"]

ablation = dict(name="ResNet")

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.widths),
)
