_base_ = "./converged_set.py"

ablation = dict(group="tau", name=1.0, seeds=1, learning_rates=())

model = dict(backbone=dict(attention=dict(tau=1.0)))
