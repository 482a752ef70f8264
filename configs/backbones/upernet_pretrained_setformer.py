# The backbones in UperNet, each from what its classifier learned with seed 0: run
# classifier_*.py first, with `--out ablation_output/backbones`.
_base_ = "./upernet_scratch_setformer.py"

ablation = dict(
    group="backbone, UperNet from its classifier",
    baselines={
        "_delete_": True,
        "backbone, UperNet from its classifier": "SeTformer",
    },
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
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 3)
default_hooks = dict(checkpoint=dict(interval=max_iters // 3))
