_base_ = "./relations_set.py"

ablation = dict(name="Sinkformer")

model = dict(backbone=dict(attention=dict(type="SinkhornAttention")))
