# A framed digit names another one, which is to be segmented, for mmseg; written by
# tools/prepare_mini_data.py.
dataset_type = "BaseSegDataset"
data_root = "data/digits/"
metainfo = dict(
    classes=("background", "another digit", "the named digit"),
    palette=[(0, 0, 0), (0, 130, 200), (255, 225, 25)],
)

# Pictures as they are: where a digit stands and what colour it has is what matters.
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path="relations/scenes/train",
            seg_map_path="relations/labels/train",
        ),
        img_suffix=".png",
        metainfo=metainfo,
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path="relations/scenes/val",
            seg_map_path="relations/labels/val",
        ),
        img_suffix=".png",
        metainfo=metainfo,
        pipeline=pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
