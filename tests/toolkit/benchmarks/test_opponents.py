"""Opponents compute what they say, so that beating them means something."""

import pytest
import torch

from setformer_mm.ops import fold, set_attention_folded
from toolkit.benchmarks.contenders import (
    AGENT,
    BOTH,
    CONTENDERS,
    DIRECTIONS,
    POT,
    SDPA,
    check,
)
from toolkit.benchmarks.opponents import eager_attention, position_weights
from toolkit.benchmarks.problems import Problem

GRIDS = dict(spatial_shape=(5, 4), reference_shape=(2, 3))


def problem(dtype=torch.float64):
    """Tokens and maps with gradients, and the arguments after them."""
    x = torch.randn(3, 20, 2, 7, dtype=dtype)
    folded = fold(torch.randn(2, 5, 7), *torch.randn(2, 2, 6, 7), alpha=1.5)
    maps = [t.to(torch.promote_types(dtype, torch.float32)) for t in folded[:3]]
    inputs = [t.requires_grad_() for t in (x, *maps)]
    fields = dict(epsilon=0.2, num_iters=2)
    weights = position_weights(*GRIDS.values(), 0.4, maps[0])
    folded = folded._replace(
        anchors=inputs[1], score_maps=inputs[2], value_map=inputs[3]
    )
    expected = set_attention_folded(
        x, folded, **GRIDS, **fields, tau=0.4, backend="reference"
    )
    return inputs, (weights, 1.5, *fields.values()), expected


def test_the_eager_form_equals_the_reference():
    inputs, fields, expected = problem()
    out = eager_attention(*inputs, *fields)
    torch.testing.assert_close(out, expected)
    grad_out = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, grad_out),
        torch.autograd.grad(expected, inputs, grad_out),
    )


def test_the_eager_form_leaves_its_inputs_alone():
    inputs, fields, expected = problem()
    copies = [t.detach().clone() for t in inputs]
    with torch.no_grad():
        torch.testing.assert_close(eager_attention(*inputs, *fields), expected)
    torch.testing.assert_close([t.detach() for t in inputs], copies)


def test_the_eager_form_takes_bfloat16():
    inputs, fields, expected = problem(torch.bfloat16)
    out = eager_attention(*inputs, *fields)
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad(out, inputs, torch.ones_like(out))
    assert [g.dtype for g in gradients] == [t.dtype for t in inputs]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("side", [3, 8])  # pools overlap, or not
def test_other_attention_agrees_with_its_formula(direction, side):
    if CONTENDERS[POT].missing:
        pytest.skip(CONTENDERS[POT].missing)
    small = Problem(batch=2, side=side, heads=2, reference_side=4, dim=8)
    names = [SDPA, AGENT, POT]
    errors = dict(check(names, small, direction, "cpu", torch.float32))
    assert list(errors) == names
    assert max(errors.values()) <= 1


def test_formulas_are_not_evaluated_where_that_takes_too_long():
    long = Problem(batch=1, side=40, heads=1, reference_side=2)
    assert list(check([SDPA, AGENT], long, BOTH, "cpu", torch.float32)) == []
