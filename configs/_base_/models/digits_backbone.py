# The small backbone of the digits, 1.2 M parameters.
digits_backbone = dict(
    arch=dict(
        _delete_=True,
        embed_dims=32,
        depths=(1, 1, 3, 1),
        num_heads=(1, 2, 4, 8),
        mlp_ratio=2,
    ),
    drop_path_rate=0.0,
)
