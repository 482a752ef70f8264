_base_ = "./mixer_agent.py"

ablation = dict(group="token mixer, one projection")

model = dict(backbone=dict(attention=dict(one_projection=True)))
