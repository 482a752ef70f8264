# Cascade Mask R-CNN: mmdetection's own model with its backbone replaced.
_base_ = [
    "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/coco_3x.py",
    "../_base_/detection_runtime.py",
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(
        _delete_=True,
        type="SeTformer",
        arch="small",
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="work_dirs/setformer_s_in1k/epoch_300.pth",
            prefix="backbone.",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
    # These two make it train under bf16 (`--amp`).
    rpn_head=dict(type="Float32RPNHead"),
    roi_head=dict(
        bbox_roi_extractor=dict(type="Float32RoIExtractor"),
        mask_roi_extractor=dict(type="Float32RoIExtractor"),
    ),
)
