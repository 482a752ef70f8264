# The backbone of the three mini jobs, trained from scratch on crops of one digit.
_base_ = [
    "../_base_/models/setformer_classifier.py",
    "../_base_/models/digits_backbone.py",
    "../_base_/datasets/digits_cls.py",
    "../_base_/schedules/adamw.py",
    "../_base_/classification_runtime.py",
]

model = dict(
    data_preprocessor=dict(num_classes=10),
    backbone=dict(
        **_base_.digits_backbone,
        # Narrow layers start slowly from the standard deviation of 0.02 of wide ones.
        init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
    ),
    head=dict(num_classes=10, in_channels=256),
    train_cfg=None,
)

max_epochs = 25
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=True,
        begin=1,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=64)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="KMeansReferenceInitHook", num_images=256, max_samples=2000, seed=0),
]
