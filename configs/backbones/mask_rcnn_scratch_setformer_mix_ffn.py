_base_ = ["./mask_rcnn_scratch_setformer.py", "../_base_/models/digits_mix_ffn.py"]

ablation = dict(name="SeTformer, Mix-FFN")

model = dict(backbone=_base_.backbone)
