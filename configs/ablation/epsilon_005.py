_base_ = "./converged_set.py"

ablation = dict(group="epsilon", name=0.05, seeds=1, learning_rates=())

model = dict(backbone=dict(attention=dict(epsilon=0.05)))
