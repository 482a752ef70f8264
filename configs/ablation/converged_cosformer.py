_base_ = "./converged_set.py"

ablation = dict(name="cosFormer", seeds=3)

model = dict(backbone=dict(attention=dict(type="CosFormerAttention")))
