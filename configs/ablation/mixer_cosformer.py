_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="cosFormer")

model = dict(backbone=dict(attention=dict(type="CosFormerAttention")))
