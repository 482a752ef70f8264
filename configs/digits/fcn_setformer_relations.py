# Segment the digit that the framed one names: two stages of the small backbone and one
# linear layer, from scratch. No UperNet, whose pooling would relate far parts itself.
_base_ = [
    "../_base_/models/upernet_setformer.py",
    "../_base_/models/relations_backbone.py",
    "../_base_/datasets/digits_relations_seg.py",
    "../_base_/schedules/digits_iterations.py",
    "../_base_/segmentation_runtime.py",
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        **_base_.relations_backbone,
        out_indices=(0, 1),
        init_cfg=dict(
            _delete_=True, type="Xavier", layer="Linear", distribution="uniform"
        ),
    ),
    decode_head=dict(
        _delete_=True,
        type="FCNHead",
        in_channels=[32, 64],
        in_index=[0, 1],
        input_transform="resize_concat",
        channels=96,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=3,
        align_corners=False,
        # Five pixels in six are background.
        loss_decode=dict(type="CrossEntropyLoss", class_weight=[0.2, 1.0, 1.0]),
    ),
    auxiliary_head=None,
)

train_cfg = dict(val_interval=250)
default_hooks = dict(checkpoint=dict(interval=250))
auto_scale_lr = dict(base_batch_size=32)
