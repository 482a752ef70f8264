_base_ = "./relations_set.py"

ablation = dict(name="SeT, centred")

model = dict(backbone=dict(attention=dict(centred=True)))
