_base_ = "./mixer_set.py"

ablation = dict(group="references", name="4x4, one set")

model = dict(backbone=dict(attention=dict(return_references=False)))
