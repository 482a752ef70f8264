_base_ = "./converged_set.py"

ablation = dict(name="SeT, not centred")

model = dict(backbone=dict(attention=dict(centred=False)))
