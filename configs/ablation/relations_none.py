_base_ = "./relations_set.py"

ablation = dict(name="none")

model = dict(backbone=dict(attention=dict(type="NoMixing")))
