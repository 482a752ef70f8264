# A short recipe, and the model that others are compared with.
_base_ = "../digits/setformer_digits.py"

ablation = dict(
    group="token mixer",
    name="SeT",
    baselines={"token mixer": "SeT", "token mixer, one projection": "SeT"},
)

# Three stages: without the fourth, convolutions alone see 31 of the 64 pixels, and a
# digit is recognised by what its parts tell each other.
model = dict(
    backbone=dict(
        arch=dict(depths=(1, 1, 2, 1)),
        out_indices=(2,),
    ),
    head=dict(in_channels=128),
)

# A sixth of the crops: what limits is how much a model learns of few pictures, and not
# how soon it begins to. No jittered colours, which double the time of loading.
train_dataloader = dict(
    dataset=dict(
        indices=list(range(0, 10_000, 6)),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomResizedCrop", scale=64, crop_ratio_range=(0.7, 1.0)),
            dict(type="PackInputs"),
        ],
    )
)

# No K-means initialisation, which no other mixer has: init_kmeans.py has it.
custom_hooks = [dict(type="ExactResumeHook")]

max_epochs = 40
warmup_epochs = 4
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
