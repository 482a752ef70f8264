# The small backbone of the mini jobs, 1.2 M parameters. The committed checkpoints were
# trained with this alpha; with the default of 4 a model leaves its plateau sooner.
digits_backbone = dict(
    arch=dict(
        _delete_=True,
        embed_dims=32,
        depths=(1, 1, 3, 1),
        num_heads=(1, 2, 4, 8),
        mlp_ratio=2,
    ),
    attention=dict(reference_shape=(4, 4), alpha=2.0),
    drop_path_rate=0.0,
)
