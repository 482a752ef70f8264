_base_ = "./relations_set.py"

ablation = dict(name="Flow-Attention")

model = dict(backbone=dict(attention=dict(type="FlowAttention")))
