# Mask R-CNN on scenes of 128 x 128: that of the COCO configs with narrow heads.
_base_ = [
    "../_base_/models/mask_rcnn_setformer.py",
    "../_base_/models/digits_backbone.py",
    "../_base_/datasets/digits_instance.py",
    "../_base_/schedules/digits_iterations.py",
    "../_base_/detection_runtime.py",
]

channels = 36
strides = [4, 8, 16, 32]
# Most boxes are 14 to 54 pixels wide (the root of their area): with this scale all of
# them are pooled from stride 4.
roi_extractor = dict(
    out_channels=channels,
    featmap_strides=strides,
    finest_scale=28,
)

model = dict(
    backbone=dict(
        **_base_.digits_backbone,
        init_cfg=dict(checkpoint="configs/digits/checkpoints/setformer_digits.pth"),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels, num_outs=4),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4], ratios=[1.0, 1.5, 2.5], strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), **roi_extractor),
        bbox_head=dict(in_channels=channels, fc_out_channels=64, num_classes=10),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), **roi_extractor),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=10,
        ),
    ),
    # At most six digits an image: a tenth of COCO's samples and proposals will do.
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(max_per_img=20),
    ),
)

train_dataloader = dict(batch_size=8, sampler=dict(type="InfiniteSampler"))

max_iters = 3500
warmup_iters = 300
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_iters),
    dict(_base_.param_scheduler[1], begin=warmup_iters, end=max_iters),
]
train_cfg = dict(max_iters=max_iters)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=500),
)
log_processor = dict(by_epoch=False)
