# PVTv2 at the size of digits_backbone.py: B0 with 20 channels instead of 32, and keys of
# half the reduction, so that a crop has 16 of them in the first stages instead of 4. From
# timm: mmdet's returns lists, which mmpretrain's necks refuse, and loads no classifier.
backbone = dict(
    _delete_=True,
    type="mmpretrain.TIMMBackbone",
    model_name="pvt_v2_b0",
    features_only=True,
    embed_dims=[20, 40, 100, 160],
    sr_ratios=[4, 2, 1, 1],
    out_indices=(0, 1, 2, 3),
    init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
)
widths = [20, 40, 100, 160]
classifier = dict(
    type="Pretrained",
    checkpoint="ablation_output/backbones/classifier_pvtv2/seed_0/epoch_12.pth",
    prefix="backbone.",
)
