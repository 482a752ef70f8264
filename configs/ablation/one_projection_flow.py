_base_ = "./mixer_flow.py"

ablation = dict(group="token mixer, one projection")

model = dict(backbone=dict(attention=dict(one_projection=True)))
