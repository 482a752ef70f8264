_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="SeT without positions")

model = dict(backbone=dict(attention=dict(tau=None)))
