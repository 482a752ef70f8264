# The backbone of the relational tasks. Strides 4 and 8: convolutions see 15 of the 112
# pixels, windows of 7 x 7 tokens at most one half of a scene, and in a third stage one
# window would hold nearly all.
relations_backbone = dict(
    arch=dict(
        _delete_=True,
        embed_dims=32,
        depths=(1, 3, 1, 1),
        num_heads=(1, 2, 4, 8),
        mlp_ratio=2,
    ),
    drop_path_rate=0.0,
)
