# ConvNeXt at the size of digits_backbone.py: the depths of its smallest models, and a
# quarter of the widths of ConvNeXt-T.
backbone = dict(
    _delete_=True,
    type="mmpretrain.ConvNeXt",
    arch=dict(depths=[2, 2, 6, 2], channels=[24, 48, 96, 192]),
    gap_before_final_norm=False,  # necks and heads average as SeTformer's do
    out_indices=(0, 1, 2, 3),
    init_cfg=[
        dict(type="Xavier", layer="Linear", distribution="uniform"),
        dict(type="TruncNormal", layer="Conv2d", std=0.02),
    ],
)
widths = [24, 48, 96, 192]
classifier = dict(
    type="Pretrained",
    checkpoint="ablation_output/backbones/classifier_convnext/seed_0/epoch_12.pth",
    prefix="backbone.",
)
