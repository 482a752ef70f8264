_base_ = "./relations_set.py"

ablation = dict(name="LOTFormer")

model = dict(backbone=dict(attention=dict(type="PivotAttention", num_pivots=16)))
