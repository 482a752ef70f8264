_base_ = "./converged_set.py"

ablation = dict(name="Flow-Attention", seeds=3)

model = dict(backbone=dict(attention=dict(type="FlowAttention")))
