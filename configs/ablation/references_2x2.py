# Tau stays two cells of the grid of references wide.
_base_ = "./mixer_set.py"

ablation = dict(group="references", name="2x2")

model = dict(backbone=dict(attention=dict(reference_shape=(2, 2), tau=1.0)))
