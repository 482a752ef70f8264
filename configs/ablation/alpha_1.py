_base_ = "./mixer_set.py"

ablation = dict(group="alpha", name=1.0)

model = dict(backbone=dict(attention=dict(alpha=1.0)))
