_base_ = ["./mask_rcnn_pretrained_setformer.py", "../_base_/models/digits_mix_ffn.py"]

ablation = dict(name="SeTformer, Mix-FFN")

model = dict(backbone=dict(_base_.backbone, init_cfg=_base_.classifier))
