"""What is looked at is what the attention does, and its rank is that of the matrix."""

import random

import numpy as np
import pytest
import torch
from ops import naive
from torch import nn

from setformer_mm.models import SeTAttention, SeTformer
from setformer_mm.models.mixers import FirstSeTAttention
from setformer_mm.utils.transport import (
    WAYS,
    Transport,
    effective_rank,
    marginal_violation,
    record_transports,
    recording,
)

SPATIAL_SHAPE, REFERENCE_SHAPE = (3, 5), (2, 3)
N, M, HEADS, DIM = 15, 6, 2, 4


def build(**fields) -> SeTAttention:
    fields = dict(epsilon=0.2, num_iters=2, alpha=1.5, tau=0.3) | fields
    return SeTAttention(HEADS * DIM, HEADS, REFERENCE_SHAPE, **fields).double().eval()


def transport_of(attention: SeTAttention) -> tuple[Transport, list[naive.Head]]:
    """One of random tokens, and what docs/method.md says about it, head by head."""
    x = torch.randn(*SPATIAL_SHAPE, HEADS * DIM, dtype=torch.float64)
    tokens = x.reshape(N, HEADS, DIM)
    heads = [
        naive.attend(
            tokens[:, head].numpy(),
            *(
                parameter[head].detach().numpy()
                for parameter in attention.folding_parameters()
                if parameter is not None
            ),
            spatial_shape=SPATIAL_SHAPE,
            reference_shape=REFERENCE_SHAPE,
            epsilon=attention.epsilon,
            num_iters=attention.num_iters,
            alpha=attention.alpha,
            tau=attention.tau,
        )
        for head in range(HEADS)
    ]
    return Transport(attention, x), heads


def stack(arrays) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


@pytest.mark.parametrize("tau", [None, 0.3, 0.1])
@pytest.mark.parametrize("epsilon", [0.02, 0.2])
@pytest.mark.parametrize("two_sets", [True, False])
def test_agrees_with_the_method_formed_densely(tau, epsilon, two_sets):
    attention = build(tau=tau, epsilon=epsilon, return_references=two_sets)
    transport, heads = transport_of(attention)
    plan_in, plan_back = map(transport.plan, WAYS)
    torch.testing.assert_close(plan_in, stack(head.way_in.plan for head in heads))
    torch.testing.assert_close(plan_back, stack(head.way_back.plan for head in heads))
    assert torch.equal(plan_in, plan_back) != two_sets
    mixing = stack(head.mixing for head in heads)
    torch.testing.assert_close(transport.attention_rows(range(N)), mixing)
    tokens = random.sample(range(N), 3)
    torch.testing.assert_close(transport.attention_rows(tokens), mixing[:, tokens])
    out = stack(head.out for head in heads).transpose(0, 1)
    torch.testing.assert_close(transport.output(), out)

    values = transport.singular_values()
    dense = torch.linalg.svdvals(mixing)
    torch.testing.assert_close(values, dense[:, :M], rtol=1e-6, atol=1e-10)
    assert dense[:, M:].max() < 1e-10


def test_factors_are_distributions_however_small_tau_is():
    transport = Transport(build(tau=1e-4), torch.randn(*SPATIAL_SHAPE, HEADS * DIM))
    for factor in transport.factors:
        torch.testing.assert_close(
            factor.sum(-1), torch.ones(factor.shape[:-1]).double()
        )


def test_fewer_tokens_than_references():
    transport = Transport(build(), torch.randn(1, 2, HEADS * DIM))
    values = transport.singular_values()
    assert values.shape == (HEADS, 2)
    dense = torch.linalg.svdvals(transport.attention_rows(range(2)))
    torch.testing.assert_close(values, dense)


def test_without_positions():
    attention = build()
    transport, _ = transport_of(attention)
    part = transport.without_positions()
    for way in WAYS:
        torch.testing.assert_close(part.plan(way), transport.plan(way))
    attention.tau = None
    expected = Transport(attention, transport._tokens)
    torch.testing.assert_close(
        part.attention_rows(range(N)), expected.attention_rows(range(N))
    )


def test_without_content():
    transport, _ = transport_of(build())
    part = transport.without_content()
    uniform = torch.full((HEADS, N, M), 1 / (N * M), dtype=torch.float64)
    for way in WAYS:
        torch.testing.assert_close(part.plan(way), uniform)
    weights = torch.from_numpy(
        naive.position_weights(N, M, SPATIAL_SHAPE, REFERENCE_SHAPE, tau=0.3)
    )
    to_tokens, _ = part.factors
    torch.testing.assert_close(to_tokens[0], weights / weights.sum(1, keepdim=True))


def test_records_what_the_attention_computes():
    """The recorded transport and the projection give what the module returned."""

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(build() for _ in range(3))

        def forward(self, x):
            self.outputs = []
            for block in self.blocks:
                x = x + block(x)
                self.outputs.append(x)

    backbone = Backbone()
    image = torch.randn(1, *SPATIAL_SHAPE, HEADS * DIM, dtype=torch.float64)
    chosen = [backbone.blocks[2], backbone.blocks[0]]
    last, first = record_transports(backbone, chosen, image)
    for transport, block, before, after in (
        (first, backbone.blocks[0], image, backbone.outputs[0]),
        (last, backbone.blocks[2], *backbone.outputs[1:]),
    ):
        out = transport.output().reshape(before.shape)
        torch.testing.assert_close(before + block.out_proj(out), after)
    assert not any(block._forward_hooks for block in backbone.blocks)


def test_a_padded_picture_is_recorded_without_its_padding():
    arch = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), mlp_ratio=1)
    backbone = SeTformer(arch).double().eval()
    attentions = [stage.blocks[0].attn for stage in backbone.stages]
    picture = torch.randn(1, 3, 40, 56, dtype=torch.float64)
    padded = nn.functional.pad(picture, (0, 72, 0, 56))
    alone = record_transports(backbone, attentions, picture)
    for transport, expected in zip(
        record_transports(backbone, attentions, padded), alone
    ):
        assert transport.grid_shape > transport.spatial_shape == expected.spatial_shape
        torch.testing.assert_close(transport.factors, expected.factors)


def test_models_that_look_twice_or_at_several_pictures():
    attention = build()
    image = torch.randn(1, *SPATIAL_SHAPE, HEADS * DIM, dtype=torch.float64)
    with (
        pytest.raises(ValueError, match="one picture, as a whole and once"),
        recording([attention]),
    ):
        attention(image)
        attention(image)
    with (
        pytest.raises(ValueError, match="one picture, as a whole and once"),
        recording([attention]),
    ):
        attention(image.expand(2, -1, -1, -1))
    assert not attention._forward_hooks


def test_an_attention_that_mixes_otherwise_is_refused():
    """Although it has the same parameters."""
    attention = FirstSeTAttention(16, 2)
    with pytest.raises(TypeError, match="be SeTAttention, got FirstSeTAttention"):
        Transport(attention, torch.zeros(4, 4, 16))


def test_convergence():
    transport, _ = transport_of(build())
    sums, distances = transport.convergence((0, 2, 300), converged=300)
    assert sums.shape == (3, 2, HEADS, M) and distances.shape == (3, HEADS)
    for of_way, way in zip(sums[1], WAYS):
        torch.testing.assert_close(of_way, transport.plan(way).sum(-2))
    violations = marginal_violation(sums)
    assert (violations[0] > violations[1]).all() and violations[2].max() < 1e-9
    limit = transport.output(300)
    expected = (transport.output() - limit).norm(dim=(0, 2)) / limit.norm(dim=(0, 2))
    torch.testing.assert_close(distances[1], expected)
    assert (distances[0] > distances[1]).all() and not distances[2].any()


@pytest.mark.parametrize("way", WAYS)
def test_rows_meet_their_marginal_at_any_iteration(way):
    transport, _ = transport_of(build())
    for num_iters in (0, 1, 7):
        rows = transport.plan(way, num_iters).sum(-1)
        assert marginal_violation(rows).max() < 1e-14


def test_marginal_violation():
    sums = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])
    assert marginal_violation(sums).tolist() == [0, 1]


def test_effective_rank():
    equal = torch.zeros(7)
    equal[:3] = random.uniform(0.1, 10)
    assert effective_rank(equal).item() == pytest.approx(3)
    values = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    # The entropy of the first is 1.5 bits.
    assert effective_rank(values).tolist() == pytest.approx([2**1.5, 1])


def test_columns():
    transport, heads = transport_of(build())
    mixing = stack(head.mixing for head in heads)
    tokens = random.sample(range(N), 3)
    columns = transport.attention_columns(tokens)
    torch.testing.assert_close(columns, mixing[..., tokens].mT)


def test_padding_takes_no_part():
    attention = build()
    tokens = torch.randn(*SPATIAL_SHAPE, HEADS * DIM)
    padded = nn.functional.pad(tokens, (0, 0, 0, 2, 0, 1), value=3.0)
    transport = Transport(attention, padded, valid_shape=SPATIAL_SHAPE)
    assert transport.grid_shape == (4, 7) and transport.spatial_shape == SPATIAL_SHAPE
    alone = Transport(attention, tokens)
    for change in (lambda t: t, Transport.without_positions, Transport.without_content):
        torch.testing.assert_close(change(transport).factors, change(alone).factors)
    torch.testing.assert_close(transport.output(), alone.output())
