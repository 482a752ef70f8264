_base_ = "./converged_set.py"

ablation = dict(name="SeT, first version", seeds=3)

model = dict(backbone=dict(attention=dict(type="FirstSeTAttention")))
