_base_ = "./converged_set.py"

ablation = dict(name="PVT", seeds=3)

model = dict(
    backbone=dict(
        attention=dict(type="SpatialReductionAttention", reduction=(4, 2, 1, 1))
    )
)
