_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="window")

model = dict(backbone=dict(attention=dict(type="WindowAttention")))
