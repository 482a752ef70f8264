# Swin at the size of digits_backbone.py. Windows of 4 x 4 tokens divide the grids of
# crops and scenes, and span a quarter of a crop; those of 7 x 7 span an eighth at 224.
backbone = dict(
    _delete_=True,
    type="mmpretrain.SwinTransformer",
    arch=dict(embed_dims=24, depths=[2, 2, 5, 1], num_heads=[1, 2, 4, 8]),
    img_size=64,
    window_size=4,
    pad_small_map=True,  # the last grid of a crop has 2 x 2 tokens
    drop_path_rate=0.0,
    out_indices=(0, 1, 2, 3),
    init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
)
widths = [24, 48, 96, 192]
classifier = dict(
    type="Pretrained",
    checkpoint="ablation_output/backbones/classifier_swin/seed_0/epoch_12.pth",
    prefix="backbone.",
)
