_base_ = "./mixer_set.py"

ablation = dict(group="references", name="8x8, 4x4, 2x2")

model = dict(
    backbone=dict(attention=dict(reference_shape=((8, 8), (4, 4), (2, 2), (2, 2))))
)
