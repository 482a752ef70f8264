_base_ = "./segmentation_set.py"

ablation = dict(group="token mixer, segmentation", name="softmax")

model = dict(
    backbone=dict(
        attention=dict(type="SoftmaxAttention"),
        init_cfg=dict(
            checkpoint="ablation_output/long/long_softmax/seed_0/epoch_120.pth"
        ),
    )
)
