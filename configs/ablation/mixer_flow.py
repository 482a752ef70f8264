_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="Flow-Attention")

model = dict(backbone=dict(attention=dict(type="FlowAttention")))
