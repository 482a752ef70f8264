_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="LOTFormer")

model = dict(backbone=dict(attention=dict(type="PivotAttention", num_pivots=16)))
