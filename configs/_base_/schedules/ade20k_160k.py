_base_ = "./adamw.py"

max_iters = 160_000
warmup_iters = 1500

optim_wrapper = dict(optimizer=dict(lr=6e-5, weight_decay=0.01))
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-6,
        by_epoch=False,
        begin=0,
        end=warmup_iters,
    ),
    dict(
        type="PolyLR",
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=warmup_iters,
        end=max_iters,
    ),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=16_000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

# 8 GPUs x 2 images; `--auto-scale-lr` scales lr linearly for another total.
auto_scale_lr = dict(enable=False, base_batch_size=16)
