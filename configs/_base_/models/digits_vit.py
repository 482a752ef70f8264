# A plain ViT of patches of 8 x 8 pixels, at the size of digits_backbone.py: attention
# in windows of 4 x 4 tokens, and among all in the third layer and the last, as in SAM
# and ViTDet. Positions are learned on a crop's grid and interpolated on a scene's.
backbone = dict(
    _delete_=True,
    type="mmpretrain.ViTSAM",
    arch=dict(
        embed_dims=128,
        num_layers=5,
        num_heads=4,
        feedforward_channels=512,
        global_attn_indexes=[2, 4],
    ),
    img_size=64,
    patch_size=8,
    window_size=4,
    out_channels=128,
    out_indices=[1, 2, 3, 4],
    init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
)
# What makes strides 4, 8, 16 and 32 of its one; such heads take it from mmseg.
pyramid = dict(type="mmseg.Feature2Pyramid", embed_dim=128, rescales=[2, 1, 0.5, 0.25])
widths = [128, 128, 128, 128]
classifier = dict(
    type="Pretrained",
    checkpoint="ablation_output/backbones/classifier_vit/seed_0/epoch_12.pth",
    prefix="backbone.",
)
