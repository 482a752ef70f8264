# Tau stays two cells of the grid of references wide.
_base_ = "./converged_set.py"

ablation = dict(group="references", name="8x8", seeds=1, learning_rates=())

model = dict(backbone=dict(attention=dict(reference_shape=(8, 8), tau=0.25)))
