# Token mixers in UperNet. The backbone starts from what the classifier with the same
# mixer learns in 120 epochs: run long_set.py, long_softmax.py and long_none.py first.
_base_ = "../digits/upernet_setformer_digits.py"

ablation = dict(
    group="token mixer, segmentation",
    name="SeT",
    baselines={"token mixer, segmentation": "SeT"},
)

model = dict(
    backbone=dict(
        arch=dict(depths=(1, 1, 2, 1)),
        out_indices=(0, 1, 2),
        init_cfg=dict(checkpoint="ablation_output/long/long_set/seed_0/epoch_120.pth"),
    ),
    decode_head=dict(in_channels=[32, 64, 128], in_index=[0, 1, 2]),
)

max_iters = 800
warmup_iters = 50
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_iters),
    dict(_base_.param_scheduler[1], begin=warmup_iters, end=max_iters),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=max_iters, val_interval=800)
