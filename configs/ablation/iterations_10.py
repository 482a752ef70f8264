_base_ = "./converged_set.py"

ablation = dict(group="iterations", name=10, seeds=1, learning_rates=())

model = dict(backbone=dict(attention=dict(num_iters=10)))
