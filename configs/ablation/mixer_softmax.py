_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="softmax")

model = dict(backbone=dict(attention=dict(type="SoftmaxAttention")))
