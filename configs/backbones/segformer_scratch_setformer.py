# The backbones in segmentation from scratch, with SegFormer's head, which fuses one
# projection of each stage. UperNet's learned nothing in 900 iterations of 8 scenes.
_base_ = "../digits/upernet_setformer_digits.py"

ablation = dict(
    group="backbone, SegFormer head from scratch",
    name="SeTformer",
    baselines={"backbone, SegFormer head from scratch": "SeTformer"},
    seeds=3,
)

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True, type="Xavier", layer="Linear", distribution="uniform"
        )
    ),
    decode_head=dict(
        _delete_=True,
        type="SegformerHead",
        in_channels=_base_.model.decode_head.in_channels,
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.0,
        num_classes=_base_.num_classes,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=_base_.model.decode_head.loss_decode,
    ),
    auxiliary_head=None,
)

train_dataloader = dict(batch_size=16)
max_iters = 1200
warmup_iters = 50
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_iters),
    dict(_base_.param_scheduler[1], begin=warmup_iters, end=max_iters),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 3)
default_hooks = dict(checkpoint=dict(interval=max_iters // 3))
