_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="none")

model = dict(backbone=dict(attention=dict(type="NoMixing")))
