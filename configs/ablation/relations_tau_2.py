_base_ = "./relations_set.py"

ablation = dict(name="SeT, tau 2")

model = dict(backbone=dict(attention=dict(tau=2.0)))
