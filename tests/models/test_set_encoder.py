"""The encoder of sequences: each one's result is its own, and what it refuses."""

from functools import partial

import pytest
import torch
from mmengine.registry import MODELS

from setformer_mm.models import TOKEN_MIXERS, SeTEncoder
from setformer_mm.ops import set_attention

FOR_PICTURES = (
    "AgentAttention",
    "FirstSeTAttention",
    "SOFTAttention",
    "SpatialReductionAttention",
    "WindowAttention",
)
WITHOUT_LENGTHS = ("PivotAttention", "SinkhornAttention")
WITH_LENGTHS = sorted({*TOKEN_MIXERS.module_dict} - {*FOR_PICTURES, *WITHOUT_LENGTHS})
# Fields at which a short sequence is another case than a long one.
FIELDS = dict(
    NystromAttention=dict(num_landmarks=8, kernel_size=5),
    SeTAttention=dict(reference_shape=(6,)),
)
LENGTHS = (23, 8, 1, 13, 9)


def encoder(kind="SeTAttention", *, pooling=None, depth=2, dtype=torch.float32):
    attention = dict(type=kind, **FIELDS.get(kind, {}))
    model = SeTEncoder(
        depth, 16, 2, mlp_ratio=2, attention=attention, pooling=pooling
    ).to(dtype)
    with torch.no_grad():  # beyond the small weights of the initialisation
        for block in model.stage.blocks:
            for parameter in block.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(10)
    return model


def _name(name, message):
    return f"{name}: {message}"


@pytest.mark.parametrize("pooling", [None, "mean", "first"])
@pytest.mark.parametrize("kind", WITH_LENGTHS)
def test_a_batch_of_lengths_is_each_sequence_alone(kind, pooling):
    """Forward and gradients, to 1e-5; whatever stands in the padding."""
    model = encoder(kind, pooling=pooling)
    batch = torch.randn(len(LENGTHS), max(LENGTHS) + 2, 16)
    lengths = torch.tensor(LENGTHS)
    alone = [
        batch[i : i + 1, :n].clone().requires_grad_() for i, n in enumerate(LENGTHS)
    ]
    for i, n in enumerate(LENGTHS):
        batch[i, n:] = float("nan") if i % 2 else 1e4
    batch.requires_grad_()

    out = model(batch, lengths)
    outs_alone = [model(x) for x in alone]
    parts = [out[i : i + 1] for i in range(len(LENGTHS))]
    if pooling is None:
        for i, n in enumerate(LENGTHS):
            assert not out[i, n:].any()
        parts = [part[:, :n] for part, n in zip(parts, LENGTHS)]
    close = dict(rtol=1e-5, atol=1e-5)
    for part, expected in zip(parts, outs_alone):
        torch.testing.assert_close(part, expected, **close)

    def loss(outs):
        weighted = (torch.linspace(-1, 1, o.numel()).view_as(o) * o for o in outs)
        return sum(each.mean() for each in weighted)

    parameters = dict(model.named_parameters())
    together = torch.autograd.grad(loss(parts), [batch, *parameters.values()])
    apart = torch.autograd.grad(loss(outs_alone), [*alone, *parameters.values()])
    for i, n in enumerate(LENGTHS):
        torch.testing.assert_close(together[0][i : i + 1, :n], apart[i], **close)
        assert not together[0][i, n:].any()
    for name, one, other in zip(parameters, together[1:], apart[len(LENGTHS) :]):
        torch.testing.assert_close(one, other, msg=partial(_name, name), **close)


@pytest.mark.parametrize("kind", WITH_LENGTHS)
def test_an_empty_sequence_spoils_nothing(kind):
    model = encoder(kind, pooling="mean")
    batch = torch.randn(2, 9, 16, requires_grad=True)
    out = model(batch, torch.tensor([0, 9]))
    out.square().sum().backward()
    torch.testing.assert_close(out[1:], model(batch[1:]), rtol=1e-5, atol=1e-5)
    assert not out[0].any() and not batch.grad[0].any()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", WITHOUT_LENGTHS)
def test_mixers_without_lengths_say_so(kind):
    model = encoder(kind)
    batch = torch.randn(2, 9, 16)
    assert model(batch).shape == batch.shape
    with pytest.raises(ValueError, match=f"lengths must be None: {kind} mixes in pad"):
        model(batch, torch.tensor([9, 5]))


@pytest.mark.parametrize("kind", FOR_PICTURES)
def test_mixers_for_pictures_are_refused(kind):
    with pytest.raises(ValueError, match=f"got {{'type': '{kind}'}}, which is for pic"):
        SeTEncoder(1, 16, 2, attention=dict(type=kind))


def test_centred_tokens_are_those_of_a_sequence():
    """The mean is of a sequence's own tokens, however it is padded."""
    centred = SeTEncoder(2, 16, 2, attention=dict(centred=True)).double()
    x, lengths = torch.randn(2, 9, 16).double(), torch.tensor([9, 4])
    alone = centred(x[1:, :4])
    torch.testing.assert_close(centred(x, lengths)[1:, :4], alone)


def test_references_on_a_grid_are_refused():
    with pytest.raises(ValueError, match=r"reference_shape=\(M,\)"):
        SeTEncoder(1, 16, 2, attention=dict(reference_shape=(4, 4)))


def test_set_attention_has_positions_of_a_sequence():
    """Those of the operator without a grid, not those of a grid of one column."""
    attention = encoder().stage.blocks[0].attn.double()
    x = torch.randn(2, 11, 1, 16).double()
    tokens = attention.in_proj(x).view(2, 11, 2, 8)
    parameters = attention.folding_parameters()
    fields = dict(alpha=attention.alpha, epsilon=attention.epsilon, tau=attention.tau)
    expected = set_attention(tokens, *parameters, **fields).reshape(x.shape)
    torch.testing.assert_close(attention(x), attention.out_proj(expected))
    with pytest.raises(ValueError, match=r"\(6,\) is for sequences .* of \(5, 2\)"):
        attention(torch.randn(1, 5, 2, 16).double())


def test_references_in_a_row_are_resampled():
    long, short = (
        SeTEncoder(1, 16, 2, attention=dict(reference_shape=(n,))) for n in (8, 4)
    )
    short.load_state_dict(long.state_dict())
    references = long.stage.blocks[0].attn.references
    pairs = references.unflatten(1, (4, 2)).mean(2)
    torch.testing.assert_close(short.stage.blocks[0].attn.references, pairs)


def test_references_of_pictures_do_not_become_those_of_sequences():
    state = SeTEncoder(1, 16, 2).state_dict()
    state["stage.blocks.0.attn._extra_state"] = torch.tensor([[4, 4], [0, 0]])
    with pytest.raises(ValueError, match=r"must come from the grid \(4, 4\)"):
        SeTEncoder(1, 16, 2).load_state_dict(state)


def test_recomputing_and_deploying_change_nothing():
    model = encoder()
    x, lengths = torch.randn(2, 9, 16), torch.tensor([9, 4])
    expected = model(x, lengths)
    recomputing = SeTEncoder(
        2, 16, 2, mlp_ratio=2, attention=dict(reference_shape=(6,)), with_cp=True
    )
    recomputing.load_state_dict(model.state_dict())
    torch.testing.assert_close(recomputing(x, lengths), expected)
    model.eval().switch_to_deploy()
    torch.testing.assert_close(model(x, lengths), expected)


def test_registered_like_the_backbone():
    model = MODELS.build(dict(type="SeTEncoder", depth=1, embed_dims=8, num_heads=2))
    assert isinstance(model, SeTEncoder)
    assert MODELS.get("setformer_mm.SeTEncoder") is SeTEncoder


INVALID = {
    "depth": (dict(depth=0), "depth must be a positive integer, got 0"),
    "drop path": (dict(drop_path_rate=1), r"drop_path_rate must be in \[0, 1\), got 1"),
    "pooling": (dict(pooling="max"), "pooling must be one of .* got 'max'"),
    "no heads": (dict(num_heads=0), "num_heads must be a positive integer, got 0"),
    "channels": (
        dict(embed_dims=-16),
        "embed_dims must be a positive .* -16",
    ),
    "no MLP": (dict(mlp_ratio=0.01), "mlp_ratio must be a number .* got 0.01"),
    "a string": (dict(mlp_ratio="4"), "mlp_ratio must be a number .* got '4'"),
    "a name": (
        dict(attention="SeTAttention"),
        r"attention must be dict\(type=.* got '",
    ),
    "heads": (dict(num_heads=3), "embed_dims must be divisible by num_heads"),
    "mixer": (dict(attention=dict(type="SetAttention")), "did you mean 'SeTAttention'"),
}


@pytest.mark.parametrize("fields, message", INVALID.values(), ids=INVALID)
def test_invalid_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        SeTEncoder(**(dict(depth=1, embed_dims=16, num_heads=2) | fields))


INVALID_INPUTS = {
    "a grid": ((1, 4, 4, 16), None, r"x must be \(B, N, 16\)"),
    "no token": ((1, 0, 16), None, "N at least 1"),
    "channels": ((1, 4, 8), None, r"x must be \(B, N, 16\)"),
    "too long": ((1, 4, 16), [5], r"lengths must be in 0..\(4"),
    "too many": ((1, 4, 16), [4, 4], r"lengths must be \(B,\)"),
}


@pytest.mark.parametrize(
    "shape, lengths, message", INVALID_INPUTS.values(), ids=INVALID_INPUTS
)
def test_invalid_inputs(shape, lengths, message):
    with pytest.raises(ValueError, match=message):
        SeTEncoder(1, 16, 2)(torch.zeros(shape), lengths and torch.tensor(lengths))
