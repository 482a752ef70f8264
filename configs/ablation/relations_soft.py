_base_ = "./relations_set.py"

ablation = dict(name="SOFT")

model = dict(
    backbone=dict(attention=dict(type="SOFTAttention", landmark_stride=(4, 2, 1, 1)))
)
