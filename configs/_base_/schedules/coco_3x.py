_base_ = "./adamw.py"

max_epochs = 36

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(
        type="MultiStepLR",
        by_epoch=True,
        begin=0,
        end=max_epochs,
        milestones=[27, 33],
        gamma=0.1,
    ),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

# 8 GPUs x 2 images; `--auto-scale-lr` scales lr linearly for another total.
auto_scale_lr = dict(enable=False, base_batch_size=16)
