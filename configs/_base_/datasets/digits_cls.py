# One digit a picture, for mmpretrain; written by tools/prepare_mini_data.py.
dataset_type = "CustomDataset"
data_root = "data/digits/classification"

# No flips: a mirrored digit is no digit, or another one.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=64, crop_ratio_range=(0.7, 1.0)),
    dict(
        type="ColorJitter",
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0.05,
        backend="cv2",
    ),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=64, edge="short"),
    dict(type="CenterCrop", crop_size=64),
    dict(type="PackInputs"),
]

# In the main process, so that a resumed run can repeat the augmentations exactly.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix="train",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix="val",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
