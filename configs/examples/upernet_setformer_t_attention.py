# Other attention fields: a sharper and more balanced plan, no positions in stage 4, and
# more references before, whose tau stays two cells of their grid wide.
_base_ = "../upernet_setformer_t.py"

model = dict(
    backbone=dict(
        attention=dict(
            reference_shape=((8, 8), (8, 8), (8, 8), (4, 4)),
            epsilon=0.005,
            num_iters=3,
            tau=(0.25, 0.25, 0.25, None),
        )
    )
)
