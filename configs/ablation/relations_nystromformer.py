_base_ = "./relations_set.py"

ablation = dict(name="Nystromformer")

model = dict(backbone=dict(attention=dict(type="NystromAttention", num_landmarks=16)))
