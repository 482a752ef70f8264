_base_ = "./mixer_soft.py"

ablation = dict(group="token mixer", name="SOFT, normalised")

model = dict(backbone=dict(attention=dict(normalise=True)))
