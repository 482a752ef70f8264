# The backbone of the three jobs on digits, trained from scratch on crops of one digit.
_base_ = [
    "../_base_/models/setformer_classifier.py",
    "../_base_/models/digits_backbone.py",
    "../_base_/datasets/digits_cls.py",
    "../_base_/schedules/digits_epochs.py",
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

custom_hooks = [
    *_base_.custom_hooks,
    dict(type="KMeansReferenceInitHook", num_images=256, max_samples=2000, seed=0),
]
