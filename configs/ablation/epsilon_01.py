_base_ = "./mixer_set.py"

ablation = dict(group="epsilon", name=0.1)

model = dict(backbone=dict(attention=dict(epsilon=0.1)))
