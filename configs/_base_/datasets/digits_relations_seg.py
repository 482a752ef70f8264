# A framed digit names another one, which is to be segmented, for mmseg; written by
# tools/prepare_mini_data.py.
_base_ = "./digits_seg.py"

crop_size = (32, 112)  # of a whole scene
metainfo = dict(
    classes=("background", "another digit", "the named digit"),
    palette=[(0, 0, 0), (0, 130, 200), (255, 225, 25)],
)

# Pictures as they are: where a digit stands and what colour it has is what matters.
train_pipeline = test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

# In the main process, so that a resumed run can repeat the order exactly.
loader = dict(batch_size=32, num_workers=0, persistent_workers=False)
train_dataloader = dict(
    **loader,
    dataset=dict(
        data_prefix=dict(
            img_path="relations/scenes/train",
            seg_map_path="relations/labels/train",
        ),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    **loader,
    dataset=dict(
        data_prefix=dict(
            img_path="relations/scenes/val",
            seg_map_path="relations/labels/val",
        ),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
