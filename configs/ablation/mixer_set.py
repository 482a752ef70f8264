# The recipe of the ablations, and the model that the others are compared with. Each
# other config here inherits from it and changes what its name says.
_base_ = "../mini/setformer_digits.py"

ablation = dict(group="token mixer", name="SeT")

# Three stages: without the fourth, convolutions alone see 31 of the 64 pixels, and a
# digit is recognised by what its parts tell each other.
model = dict(
    backbone=dict(arch=dict(depths=(1, 1, 2, 1)), out_indices=(2,)),
    head=dict(in_channels=128),
)

# No K-means initialisation, which no other mixer has: init_kmeans.py has it.
custom_hooks = [dict(type="ExactResumeHook")]

max_epochs = 6
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
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
