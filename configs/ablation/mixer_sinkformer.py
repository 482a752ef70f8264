_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="Sinkformer")

model = dict(backbone=dict(attention=dict(type="SinkhornAttention")))
