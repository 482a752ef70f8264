"""Attention through a pivot measure, against the whole coupling."""

import math

import pytest
import torch
from torch import Tensor

from setformer_mm.models.mixers.lotformer import PivotAttention, pivot_attention

from .dense import dense, random_heads


def scaled(kernel: Tensor, rows: Tensor, columns: Tensor, num_steps: int) -> Tensor:
    """Sinkhorn's algorithm by scaling factors, not on logarithms."""
    left, right = torch.ones_like(kernel[..., :1]), torch.ones_like(kernel[..., :1, :])
    for step in range(num_steps):
        if step % 2 == 0:
            left = rows[..., None] / (kernel * right).sum(-1, keepdim=True)
        else:
            right = columns[..., None, :] / (kernel * left).sum(-2, keepdim=True)
    return left * kernel * right


def glued_coupling(q, k, pivots, masses, epsilon: float, num_steps: int) -> Tensor:
    """The whole ``(N, N)`` matrix that the paper's attention is."""
    share = torch.full((q.shape[-2],), 1 / q.shape[-2]).double()
    scale = epsilon * math.sqrt(q.shape[-1])
    to_pivots = torch.exp(torch.einsum("bhid,hrd->bhir", q, pivots) / scale)
    to_keys = torch.exp(torch.einsum("hrd,bhjd->bhrj", pivots, k) / scale)
    to_pivots = scaled(to_pivots, share, masses, num_steps)
    to_keys = scaled(to_keys, masses, share, num_steps)
    glue = torch.diag_embed(1 / masses)
    return q.shape[-2] * to_pivots @ glue @ to_keys


@pytest.fixture
def measure() -> tuple[Tensor, Tensor]:
    """Points and masses of a pivot measure, other ones in each of three heads."""
    return torch.randn(3, 5, 4).double(), torch.randn(3, 5).double().softmax(-1)


@pytest.mark.parametrize("num_steps", [1, 5])
@pytest.mark.parametrize("epsilon", [1.0, 0.3])
def test_pivot_attention_is_the_glued_coupling(measure, epsilon, num_steps):
    q, k, v = random_heads()
    pivots, masses = measure
    matrix = glued_coupling(q, k, pivots, masses, epsilon, num_steps)
    out = pivot_attention(q, k, v, pivots, masses.log(), epsilon, num_steps)
    torch.testing.assert_close(out, dense(matrix, v))
    assert torch.linalg.matrix_rank(matrix, rtol=1e-10).eq(5).all()


def test_converged_it_is_doubly_stochastic(measure):
    q, k, _ = random_heads()
    eye = torch.eye(30).double().expand(2, 3, 30, 30)
    pivots, masses = measure
    matrix = pivot_attention(q, k, eye, pivots, masses.log(), 1.0, 201)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 3, 30).double())
    torch.testing.assert_close(matrix.sum(-2), torch.ones(2, 3, 30).double())


def test_the_module_learns_points_and_masses():
    mixer = PivotAttention(12, 3, num_pivots=7)
    assert mixer.pivots.shape == (3, 7, 4) and mixer.mass_logits.shape == (3, 7)
    mixer(torch.randn(2, 5, 6, 12)).square().sum().backward()
    assert mixer.pivots.grad.any() and mixer.mass_logits.grad.any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_graphs_are_for_any_number_of_tokens():
    mixer = PivotAttention(8, 2, num_pivots=3).eval()
    example, x = torch.randn(2, 4, 5, 8), torch.randn(2, 6, 7, 8)
    sides = {1: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    program = torch.export.export(
        mixer, (example,), strict=False, dynamic_shapes=(sides,)
    )
    for graph in torch.jit.trace(mixer, example), program.module():
        torch.testing.assert_close(graph(x), mixer(x))
