custom_imports = dict(imports=["setformer_mm", "toy_job"])

model = dict(type="ToyModel")
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type="ToyDataset", noisy=True),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type="ToyDataset"),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type="ToyAccuracy")

train_cfg = dict(by_epoch=True, max_epochs=4)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01))
param_scheduler = dict(type="CosineAnnealingLR", T_max=4)

default_hooks = dict(
    checkpoint=dict(type="AtomicCheckpointHook", interval=1, max_keep_ckpts=2),
    result=dict(type="TrainResultHook"),
)
custom_hooks = [dict(type="ExactResumeHook")]
randomness = dict(seed=0)
