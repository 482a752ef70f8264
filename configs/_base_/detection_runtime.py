_base_ = "./default_runtime.py"

custom_imports = dict(imports=["setformer_mm", "setformer_mm.models.bf16_detection"])
default_scope = "mmdet"
default_hooks = dict(visualization=dict(type="DetVisualizationHook"))
visualizer = dict(
    type="DetLocalVisualizer", vis_backends=_base_.vis_backends, name="visualizer"
)
