# PVTv2-B0 at the size of digits_backbone.py: 20 channels instead of 32, and keys of
# half the reduction, because grids are small: a crop has 16 of them in the first
# stages, not 4. It is timm's: that of mmdet returns a list, which necks of mmpretrain
# refuse, and leaves out every weight of a classifier without an error. It begins as
# timm has it: from Xavier's initialisation, which the others have, it never learns.
backbone = dict(
    _delete_=True,
    type="mmpretrain.TIMMBackbone",
    model_name="pvt_v2_b0",
    features_only=True,
    embed_dims=[20, 40, 100, 160],
    sr_ratios=[4, 2, 1, 1],
    out_indices=(0, 1, 2, 3),
)
widths = [20, 40, 100, 160]
classifier = dict(
    type="Pretrained",
    checkpoint="ablation_output/backbones/classifier_pvtv2/seed_0/epoch_12.pth",
    prefix="backbone.",
)
