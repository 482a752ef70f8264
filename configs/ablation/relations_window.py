_base_ = "./relations_set.py"

ablation = dict(name="window")

model = dict(backbone=dict(attention=dict(type="WindowAttention")))
