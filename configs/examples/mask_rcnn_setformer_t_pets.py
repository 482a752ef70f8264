# Two classes of one's own, annotated in COCO's format, 12 epochs on one GPU.
_base_ = "../mask_rcnn_setformer_t.py"

data_root = "data/pets/"
metainfo = dict(classes=("cat", "dog"), palette=[(220, 20, 60), (0, 130, 200)])

model = dict(
    backbone=dict(init_cfg=None),  # `load_from` below brings the whole detector
    roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2)),
)

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/train.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/val.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator

# A small data set: start from a detector trained on COCO, change early layers least.
load_from = "work_dirs/mask_rcnn_setformer_t/epoch_36.pth"
max_epochs = 12
optim_wrapper = dict(
    optimizer=dict(lr=2e-5),
    constructor="SeTformerLayerDecayConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=200),
    dict(
        type="CosineAnnealingLR",
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs)
