# What every run shares. A config that sets `custom_imports` or `custom_hooks` itself
# replaces these lists: repeat the entries it wants to keep.
custom_imports = dict(imports=["setformer_mm"], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="AtomicCheckpointHook", interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    result=dict(type="TrainResultHook"),
    non_finite_loss=dict(type="NonFiniteLossHook", patience=10),
)
custom_hooks = [dict(type="ExactResumeHook")]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
randomness = dict(seed=0)
load_from = None
resume = False
