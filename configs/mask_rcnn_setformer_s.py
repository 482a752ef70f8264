_base_ = "./mask_rcnn_setformer_t.py"

model = dict(
    backbone=dict(
        arch="small",
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint="work_dirs/setformer_s_in1k/epoch_300.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
