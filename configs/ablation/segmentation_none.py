_base_ = "./segmentation_set.py"

ablation = dict(group="token mixer, segmentation", name="none")

model = dict(
    backbone=dict(
        attention=dict(type="NoMixing"),
        init_cfg=dict(checkpoint="ablation_output/long/long_none/seed_0/epoch_120.pth"),
    )
)
