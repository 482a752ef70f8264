# Three times the epochs: what a mixer reaches, beside how soon.
_base_ = "./mixer_set.py"

ablation = dict(
    group="token mixer, 120 epochs",
    name="SeT",
    baselines={"_delete_": True, "token mixer, 120 epochs": "SeT"},
)

max_epochs = 120
warmup_epochs = 4
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs)
