_base_ = "./converged_set.py"

ablation = dict(name="Nystromformer", seeds=3)

model = dict(backbone=dict(attention=dict(type="NystromAttention", num_landmarks=16)))
