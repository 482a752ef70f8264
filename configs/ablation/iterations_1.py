_base_ = "./mixer_set.py"

ablation = dict(group="iterations", name=1)

model = dict(backbone=dict(attention=dict(num_iters=1)))
