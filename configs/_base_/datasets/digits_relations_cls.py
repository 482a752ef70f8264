# A framed digit names another one, whose class is the label, for mmpretrain; written by
# tools/prepare_mini_data.py.
dataset_type = "CustomDataset"
data_root = "data/digits"

# Pictures as they are: where a digit stands and what colour it has is what matters.
pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]

# In the main process, so that a resumed run can repeat the order exactly.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="annotations/relations_train.txt",
        data_prefix="relations/scenes/train",
        metainfo=dict(classes=list("0123")),
        pipeline=pipeline,
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
        ann_file="annotations/relations_val.txt",
        data_prefix="relations/scenes/val",
        metainfo=dict(classes=list("0123")),
        pipeline=pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
