_base_ = "./mask_rcnn_scratch_setformer.py"

ablation = dict(name="SeTformer, Mix-FFN")

model = dict(backbone=dict(mix_ffn=True))
