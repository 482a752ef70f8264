# The first minutes of the classifier, for a CPU: `make demo-cls`.
_base_ = "./setformer_digits.py"

max_epochs = 8
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=10))
