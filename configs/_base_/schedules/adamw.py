# The optimiser of every recipe; a schedule adds `lr` and `weight_decay`.
# Anchors and references enter the kernel as unit vectors: decaying their length would
# change nothing but the size of their gradients. Norms and biases are exempt as usual.
# bf16 training: `optim_wrapper = dict(type="AmpOptimWrapper", dtype="bfloat16")`,
# which is what `tools/train.py --amp` sets.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", betas=(0.9, 0.999)),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            anchors=dict(decay_mult=0.0),
            references=dict(decay_mult=0.0),  # both sets: a key is part of a name
        ),
    ),
)
