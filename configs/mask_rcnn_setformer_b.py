_base_ = "./mask_rcnn_setformer_t.py"

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.5,
        init_cfg=dict(checkpoint="work_dirs/setformer_b_in1k/epoch_300.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
