_base_ = "./converged_set.py"

ablation = dict(group="tau", name=0.25, seeds=1, learning_rates=())

model = dict(backbone=dict(attention=dict(tau=0.25)))
