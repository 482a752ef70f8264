# A framed digit names another one, whose class is the label, for mmpretrain; written by
# tools/prepare_mini_data.py.
_base_ = "./digits_cls.py"

data_root = "data/digits"
metainfo = dict(classes=list("0123"))

# Pictures as they are: where a digit stands and what colour it has is what matters.
train_pipeline = test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="PackInputs"),
]

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/relations_train.txt",
        data_prefix="relations/scenes/train",
        metainfo=metainfo,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/relations_val.txt",
        data_prefix="relations/scenes/val",
        metainfo=metainfo,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
