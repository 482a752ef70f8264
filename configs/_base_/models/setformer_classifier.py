model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        type="ClsDataPreprocessor",
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    # One output, the last stage, hence one final norm.
    backbone=dict(
        type="SeTformer",
        arch="tiny",
        out_indices=(3,),
        drop_path_rate=0.2,
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=512,
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        cal_acc=False,
    ),
    train_cfg=dict(
        augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]
    ),
)
