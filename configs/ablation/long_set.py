# Three times the epochs: what a mixer reaches, beside how soon.
_base_ = "./mixer_set.py"

ablation = dict(
    group="token mixer, 120 epochs",
    name="SeT",
    baselines={"_delete_": True, "token mixer, 120 epochs": "SeT"},
)

max_epochs = 120
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
