# Which digit does the framed one name? Two stages of the small backbone, from scratch.
_base_ = [
    "../_base_/models/setformer_classifier.py",
    "../_base_/models/relations_backbone.py",
    "../_base_/datasets/digits_relations_cls.py",
    "../_base_/schedules/digits_epochs.py",
    "../_base_/classification_runtime.py",
]

model = dict(
    data_preprocessor=dict(num_classes=4),
    backbone=dict(
        **_base_.relations_backbone,
        out_indices=(1,),
        init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
    ),
    head=dict(num_classes=4, in_channels=64),
    train_cfg=None,
)

max_epochs = 12
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
