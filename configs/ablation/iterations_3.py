_base_ = "./mixer_set.py"

ablation = dict(group="iterations", name=3)

model = dict(backbone=dict(attention=dict(num_iters=3)))
