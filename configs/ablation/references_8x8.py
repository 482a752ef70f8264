_base_ = "./mixer_set.py"

ablation = dict(group="references", name="8x8")

model = dict(backbone=dict(attention=dict(reference_shape=(8, 8))))
