_base_ = "./relations_set.py"

ablation = dict(name="SeT without positions")

model = dict(backbone=dict(attention=dict(tau=None)))
