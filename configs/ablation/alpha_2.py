_base_ = "./mixer_set.py"

ablation = dict(group="alpha", name=2.0)

model = dict(backbone=dict(attention=dict(alpha=2.0)))
