_base_ = "./mixer_set.py"

ablation = dict(group="tau", name=0.25)

model = dict(backbone=dict(attention=dict(tau=0.25)))
