"""Attention inside windows, against a matrix over all tokens with most entries 0."""

import math

import pytest
import torch
from torch import Tensor

from setformer_mm.models.mixers.window import WindowAttention, window_attention

from .dense import dense, random_heads


def windows_along(length: int, side: int) -> list[int]:
    """The window of each cell, with what is missing spread over both ends."""
    missing = -length % side
    return [(cell + missing // 2) // side for cell in range(length)]


def window_matrix(q: Tensor, k: Tensor, bias: Tensor, shape: tuple[int, int]) -> Tensor:
    """Weights of all tokens for all others, written down pair by pair."""
    size = (bias.shape[-1] + 1) // 2
    sides = [min(size, length) for length in shape]
    of_row, of_column = (windows_along(n, s) for n, s in zip(shape, sides))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    cells = [(y, x) for y in range(shape[0]) for x in range(shape[1])]
    for i, (y, x) in enumerate(cells):
        for j, (row, column) in enumerate(cells):
            if (of_row[y], of_column[x]) == (of_row[row], of_column[column]):
                offset = bias[:, y - row + size - 1, x - column + size - 1]
                scores[:, :, i, j] += offset
            else:
                scores[:, :, i, j] = -torch.inf
    return scores.softmax(-1)


# Divided by the windows, by neither side, smaller than one, larger along one side only.
@pytest.mark.parametrize("shape", [(6, 9), (5, 7), (2, 2), (2, 8), (4, 4)])
def test_by_the_whole_matrix(shape):
    q, k, v = random_heads(num_tokens=math.prod(shape))
    bias = torch.randn(3, 5, 5).double()
    expected = dense(window_matrix(q, k, bias, shape), v)
    torch.testing.assert_close(window_attention(q, k, v, shape, bias), expected)


def test_nothing_from_beyond_the_window():
    mixer = WindowAttention(8, 2).double()
    x = torch.randn(1, 12, 14, 8).double().requires_grad_()
    (gradient,) = torch.autograd.grad(mixer(x)[0, 2, 3].square().sum(), x)
    seen = gradient.abs().sum(-1)[0] > 0
    # 12 rows lack 2 of two windows, one at either end: the first window has 6 of them.
    assert seen[:6, :7].all() and seen.sum() == 6 * 7
