_base_ = "./converged_set.py"

ablation = dict(name="SOFT", seeds=3)

model = dict(
    backbone=dict(attention=dict(type="SOFTAttention", landmark_stride=(4, 2, 1, 1)))
)
