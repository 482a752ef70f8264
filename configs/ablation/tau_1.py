_base_ = "./mixer_set.py"

ablation = dict(group="tau", name=1.0)

model = dict(backbone=dict(attention=dict(tau=1.0)))
