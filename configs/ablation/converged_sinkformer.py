_base_ = "./converged_set.py"

ablation = dict(name="Sinkformer", seeds=3)

model = dict(backbone=dict(attention=dict(type="SinkhornAttention")))
