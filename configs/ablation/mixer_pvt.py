_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="PVT")

model = dict(
    backbone=dict(
        attention=dict(type="SpatialReductionAttention", reduction=(4, 2, 1, 1))
    )
)
