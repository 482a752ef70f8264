_base_ = "./relations_set.py"

ablation = dict(name="PVT")

model = dict(
    backbone=dict(
        attention=dict(type="SpatialReductionAttention", reduction=(4, 2, 1, 1))
    )
)
