_base_ = "./mixer_cosformer.py"

ablation = dict(group="token mixer, one projection")

model = dict(backbone=dict(attention=dict(one_projection=True)))
