_base_ = "./relations_set.py"

ablation = dict(name="SeT, not centred")

model = dict(backbone=dict(attention=dict(centred=False)))
