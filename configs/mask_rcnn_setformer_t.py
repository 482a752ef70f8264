# The backbone starts from what `configs/setformer_t_in1k.py` trained. To train without:
# --cfg-options model.backbone.init_cfg=None
_base_ = [
    "./_base_/models/mask_rcnn_setformer.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/detection_runtime.py",
]
