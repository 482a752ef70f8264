# Tau stays two cells of the grid of references wide.
_base_ = "./converged_set.py"

ablation = dict(group="references", name="2x2", seeds=1, learning_rates=())

model = dict(backbone=dict(attention=dict(reference_shape=(2, 2), tau=1.0)))
