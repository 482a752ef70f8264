# The backbone starts from what `configs/setformer_t_in1k.py` trained. To train without:
# --cfg-options model.backbone.init_cfg=None
_base_ = [
    "./_base_/models/upernet_setformer.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/segmentation_runtime.py",
]

default_hooks = dict(checkpoint=dict(interval=16_000))
