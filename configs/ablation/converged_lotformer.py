_base_ = "./converged_set.py"

ablation = dict(name="LOTFormer", seeds=3)

model = dict(backbone=dict(attention=dict(type="PivotAttention", num_pivots=16)))
