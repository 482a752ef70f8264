# The backbones in Mask R-CNN, from scratch.
_base_ = "../digits/mask_rcnn_setformer_digits.py"

ablation = dict(
    group="backbone, Mask R-CNN from scratch",
    name="SeTformer",
    baselines={"backbone, Mask R-CNN from scratch": "SeTformer"},
    seeds=3,
)

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),  # a rule of others than SeTformer
    backbone=dict(
        init_cfg=dict(
            _delete_=True, type="Xavier", layer="Linear", distribution="uniform"
        )
    ),
)

max_iters = 360
warmup_iters = 50
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_iters),
    dict(_base_.param_scheduler[1], begin=warmup_iters, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 3)
default_hooks = dict(checkpoint=dict(interval=max_iters // 3))
