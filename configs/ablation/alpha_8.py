_base_ = "./mixer_set.py"

ablation = dict(group="alpha", name=8.0)

model = dict(backbone=dict(attention=dict(alpha=8.0)))
