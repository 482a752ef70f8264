# UperNet on scenes of 128 x 128: that of the ADE20K configs with narrow heads.
_base_ = [
    "../_base_/models/upernet_setformer.py",
    "../_base_/models/digits_backbone.py",
    "../_base_/datasets/digits_seg.py",
    "../_base_/schedules/digits_iterations.py",
    "../_base_/segmentation_runtime.py",
]

num_classes = 11  # background and ten digits
# Nine pixels in ten are background: unweighted, 1,000 iterations learned nothing else.
class_weight = [0.1] + [1.0] * 10
norm_cfg = dict(type="BN", requires_grad=True)

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        **_base_.digits_backbone,
        init_cfg=dict(checkpoint="configs/digits/checkpoints/setformer_digits.pth"),
    ),
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        pool_scales=(1, 2),
        channels=32,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=class_weight),
    ),
    auxiliary_head=dict(
        in_channels=128,
        channels=128,
        num_convs=0,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=class_weight),
    ),
)

max_iters = 2500
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.01))
param_scheduler = [
    _base_.param_scheduler[0],
    dict(
        type="PolyLR",
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=_base_.warmup_iters,
        end=max_iters,
    ),
]
train_cfg = dict(max_iters=max_iters)
default_hooks = dict(checkpoint=dict(interval=500))
