_base_ = "./default_runtime.py"

default_scope = "mmseg"
# Segmentation counts iterations, not epochs.
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False),
    visualization=dict(type="SegVisualizationHook"),
)
log_processor = dict(by_epoch=False)
visualizer = dict(
    type="SegLocalVisualizer", vis_backends=_base_.vis_backends, name="visualizer"
)
