_base_ = "./relations_set.py"

ablation = dict(name="cosFormer")

model = dict(backbone=dict(attention=dict(type="CosFormerAttention")))
