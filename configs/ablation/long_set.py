# Three times the epochs: what is a matter of speed in the others, and what is not.
_base_ = "./mixer_set.py"

ablation = dict(
    group="token mixer, 12 epochs",
    name="SeT",
    baselines={"_delete_": True, "token mixer, 12 epochs": "SeT"},
)

max_epochs = 12
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
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
