# Two classes of one's own: pictures data/roads/images/{train,val}/*.jpg, and label maps
# data/roads/labels/{train,val}/*.png with 0, 1, and 255 for what has none.
_base_ = "../upernet_setformer_t.py"

dataset = dict(
    type="BaseSegDataset",
    data_root="data/roads",
    metainfo=dict(classes=("other", "road"), palette=[(90, 90, 90), (220, 20, 60)]),
)

model = dict(
    decode_head=dict(num_classes=2),
    auxiliary_head=dict(num_classes=2),
)

train_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="images/train", seg_map_path="labels/train"),
    )
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="images/val", seg_map_path="labels/val"),
    )
)
test_dataloader = val_dataloader
