_base_ = "./long_set.py"

ablation = dict(group="token mixer, 120 epochs", name="softmax")

model = dict(backbone=dict(attention=dict(type="SoftmaxAttention")))
