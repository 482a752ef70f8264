# Other attention fields: more references, a sharper plan, no positions in stage 4.
_base_ = "../upernet_setformer_t.py"

model = dict(
    backbone=dict(
        attention=dict(
            reference_shape=((12, 12), (12, 12), (8, 8), (8, 8)),
            epsilon=0.05,
            num_iters=5,
            tau=(0.1, 0.1, 0.15, None),
        )
    )
)
