# Token mixers trained until they have learned what they will: all crops, 12 epochs, a
# learning rate for each mixer from the same three. Validations at every sixth.
_base_ = "./mixer_set.py"

ablation = dict(
    group="token mixer, converged",
    name="SeT",
    # This config under the names that it has in the other comparisons.
    baselines={
        "_delete_": True,
        "token mixer, converged": "SeT",
        "references": "4x4",
        "epsilon": 0.01,
        "iterations": 1,
        "alpha": 2.0,
        "tau": 0.5,
        "initialisation": "random",
    },
    seeds=5,
    learning_rates=(5e-4, 1e-3, 2e-3),
)

train_dataloader = dict(dataset=dict(indices=None))

max_epochs = 12
warmup_epochs = 1
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
