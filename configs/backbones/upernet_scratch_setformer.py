# The backbones in UperNet, from scratch.
_base_ = "../digits/upernet_setformer_digits.py"

ablation = dict(
    group="backbone, UperNet from scratch",
    name="SeTformer",
    baselines={"backbone, UperNet from scratch": "SeTformer"},
    seeds=3,
)

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True, type="Xavier", layer="Linear", distribution="uniform"
        )
    )
)

max_iters = 900
warmup_iters = 50
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_iters),
    dict(_base_.param_scheduler[1], begin=warmup_iters, end=max_iters),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 3)
default_hooks = dict(checkpoint=dict(interval=max_iters // 3))
