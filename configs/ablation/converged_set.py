# Token mixers trained until they have learned what they will: all crops, 24 epochs, a
# learning rate for each mixer from the same three. Validations at every twelfth.
_base_ = "./mixer_set.py"

ablation = dict(
    group="token mixer, converged",
    name="SeT",
    baselines={"_delete_": True, "token mixer, converged": "SeT"},
    seeds=5,
    learning_rates=(5e-4, 1e-3, 2e-3),
)

train_dataloader = dict(dataset=dict(indices=None))

max_epochs = 24
warmup_epochs = 1
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
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
