_base_ = "./mixer_set.py"

ablation = dict(group="alpha", name=4.0)

model = dict(backbone=dict(attention=dict(alpha=4.0)))
