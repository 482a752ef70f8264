# Which digit does the framed one name? Two stages of the mini backbone, from scratch.
_base_ = [
    "../_base_/models/setformer_classifier.py",
    "../_base_/datasets/digits_relations_cls.py",
    "../_base_/schedules/adamw.py",
    "../_base_/classification_runtime.py",
]

model = dict(
    data_preprocessor=dict(num_classes=4),
    # Strides 4 and 8: convolutions see 15 of the 112 pixels, windows of 7 x 7 tokens at
    # most one half of a scene, and in a third stage one window would hold nearly all.
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=32,
            depths=(1, 3, 1, 1),
            num_heads=(1, 2, 4, 8),
            mlp_ratio=2,
        ),
        drop_path_rate=0.0,
        out_indices=(1,),
        init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
    ),
    head=dict(num_classes=4, in_channels=64),
    train_cfg=None,
)

max_epochs = 12
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
