_base_ = "./converged_set.py"

ablation = dict(name="softmax")

model = dict(backbone=dict(attention=dict(type="SoftmaxAttention")))
