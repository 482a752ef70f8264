_base_ = "./long_set.py"

ablation = dict(name="softmax")

model = dict(backbone=dict(attention=dict(_delete_=True, type="SoftmaxAttention")))
