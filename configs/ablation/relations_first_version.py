_base_ = "./relations_set.py"

ablation = dict(name="SeT, first version")

model = dict(backbone=dict(attention=dict(type="FirstSeTAttention")))
