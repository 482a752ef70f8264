# The backbones in UperNet, each from what its classifier learned with seed 0: run
# classifier_*.py first, with `--out ablation_output/backbones`.
_base_ = "../digits/upernet_setformer_digits.py"

ablation = dict(
    group="backbone, UperNet from its classifier",
    name="SeTformer",
    baselines={"backbone, UperNet from its classifier": "SeTformer"},
    seeds=3,
)

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type="Pretrained",
            checkpoint="ablation_output/backbones/classifier_setformer/seed_0/epoch_12.pth",
            prefix="backbone.",
        )
    )
)

max_iters = 600
warmup_iters = 50
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_iters),
    dict(_base_.param_scheduler[1], begin=warmup_iters, end=max_iters),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 3)
default_hooks = dict(checkpoint=dict(interval=max_iters // 3))
