_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="SOFT")

model = dict(
    backbone=dict(attention=dict(type="SOFTAttention", landmark_stride=(4, 2, 1, 1)))
)
