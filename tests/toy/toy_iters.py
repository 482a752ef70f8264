_base_ = "toy_epochs.py"

train_dataloader = dict(sampler=dict(type="InfiniteSampler", shuffle=True))
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=12, val_interval=4)
param_scheduler = dict(T_max=12, by_epoch=False)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=3),
    logger=dict(type="LoggerHook", interval=1, log_metric_by_epoch=False),
)
log_processor = dict(by_epoch=False)
