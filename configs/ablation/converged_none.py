_base_ = "./converged_set.py"

ablation = dict(name="none")

model = dict(backbone=dict(attention=dict(type="NoMixing")))
