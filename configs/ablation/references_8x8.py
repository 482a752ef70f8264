# Tau stays two cells of the grid of references wide.
_base_ = "./mixer_set.py"

ablation = dict(group="references", name="8x8")

model = dict(backbone=dict(attention=dict(reference_shape=(8, 8), tau=0.25)))
