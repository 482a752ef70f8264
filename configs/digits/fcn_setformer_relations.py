# Segment the digit that the framed one names: two stages of the mini backbone and one
# linear layer, from scratch. No UperNet, whose pooling would relate far parts itself.
_base_ = [
    "../_base_/datasets/digits_relations_seg.py",
    "../_base_/schedules/adamw.py",
    "../_base_/segmentation_runtime.py",
]

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(32, 112),
        pad_val=0,
        seg_pad_val=255,
    ),
    # As in setformer_relations.py, with the output of both stages.
    backbone=dict(
        type="SeTformer",
        arch=dict(
            embed_dims=32,
            depths=(1, 3, 1, 1),
            num_heads=(1, 2, 4, 8),
            mlp_ratio=2,
        ),
        drop_path_rate=0.0,
        out_indices=(0, 1),
        init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
    ),
    decode_head=dict(
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
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

max_iters = 3000
warmup_iters = 100
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        by_epoch=False,
        begin=0,
        end=warmup_iters,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=False,
        begin=warmup_iters,
        end=max_iters,
    ),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=250)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(checkpoint=dict(interval=250))
auto_scale_lr = dict(enable=False, base_batch_size=32)
