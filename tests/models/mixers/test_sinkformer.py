"""Softmax attention scaled over rows and columns, against loops in plain numbers."""

import pytest
import torch
from torch.nn import functional as F

from setformer_mm.models.mixers.sinkformer import SinkhornAttention, sinkhorn_attention
from setformer_mm.models.mixers.sinkhorn import transport_plan

from .dense import dense, random_heads


@pytest.mark.parametrize("num_steps", [1, 3, 7])
def test_rows_and_columns_are_divided_by_their_sums_in_turn(num_steps):
    q, k, v = random_heads()
    kernel = torch.exp(torch.einsum("bhid,bhjd->bhij", q, k) / 2)
    for step in range(num_steps):
        kernel = kernel / kernel.sum(-1 if step % 2 == 0 else -2, keepdim=True)
    torch.testing.assert_close(sinkhorn_attention(q, k, v, num_steps), dense(kernel, v))


def test_one_step_is_softmax_attention():
    q, k, v = random_heads()
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(sinkhorn_attention(q, k, v, 1), expected)


def test_many_steps_are_doubly_stochastic():
    q, k, _ = random_heads()
    plan = transport_plan(q @ k.mT / 2, 0.0, 0.0, 201)
    torch.testing.assert_close(plan.sum(-1), torch.ones(2, 3, 30).double())
    torch.testing.assert_close(plan.sum(-2), torch.ones(2, 3, 30).double())


def test_large_scores_do_not_overflow():
    q, k, v = (100 * x.float() for x in random_heads())
    assert sinkhorn_attention(q, k, v, 5).isfinite().all()


@pytest.mark.parametrize("num_steps", [0, 4, -1])
def test_steps_that_do_not_end_with_the_rows(num_steps):
    with pytest.raises(ValueError, match=f"odd and positive, got {num_steps}"):
        SinkhornAttention(8, 2, num_steps=num_steps)
