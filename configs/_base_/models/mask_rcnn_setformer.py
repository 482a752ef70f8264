_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    # SeTformer takes any size, and padded pixels carry transport mass: pad no more than
    # the batch needs.
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(
        _delete_=True,
        type="SeTformer",
        arch="tiny",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="work_dirs/setformer_t_in1k/epoch_300.pth",
            prefix="backbone.",
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
    # mmdetection's own two fail under bf16.
    rpn_head=dict(type="Float32RPNHead"),
    roi_head=dict(
        bbox_roi_extractor=dict(type="Float32RoIExtractor"),
        mask_roi_extractor=dict(type="Float32RoIExtractor"),
    ),
)
