_base_ = "./converged_set.py"

ablation = dict(group="alpha", name=1.0, seeds=3, learning_rates=())

model = dict(backbone=dict(attention=dict(alpha=1.0)))
