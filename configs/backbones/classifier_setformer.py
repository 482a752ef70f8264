# Backbones of 1.2 M parameters with one recipe, each from scratch on all crops of one
# digit. The other configs here inherit from those of SeTformer.
_base_ = "../digits/setformer_digits.py"

ablation = dict(
    group="backbone, classifier",
    name="SeTformer",
    baselines={"backbone, classifier": "SeTformer"},
    seeds=3,
)

# No jittered colours, which double the time of loading.
train_dataloader = dict(
    dataset=dict(
        pipeline=[s for s in _base_.train_pipeline if s["type"] != "ColorJitter"]
    )
)
# No K-means initialisation, which no other backbone has.
custom_hooks = [dict(type="ExactResumeHook")]

max_epochs = 12
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
