_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="Nystromformer")

model = dict(backbone=dict(attention=dict(type="NystromAttention", num_landmarks=16)))
