"""Nystrom's approximation of softmax attention, part by part."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from setformer_mm.models.mixers.nystromformer import (
    NystromAttention,
    nystrom_attention,
    pseudo_inverse,
    segment_means,
)

from .dense import GRID, dense, random_heads


def test_pseudo_inverse_converges():
    matrix = torch.randn(4, 6, 6).double().softmax(-1) + torch.eye(6) / 2
    expected = torch.linalg.pinv(matrix)
    torch.testing.assert_close(pseudo_inverse(matrix, 20), expected)


def test_six_iterations_by_the_papers_polynomial():
    """Each step maps the residual ``I - A Z`` to a polynomial of itself."""
    matrix = torch.randn(6, 6).double().softmax(-1)
    inverse = matrix.T / (matrix.abs().sum(0).max() * matrix.abs().sum(1).max())
    residual = torch.eye(6).double() - matrix @ inverse
    for _ in range(6):
        residual = residual @ residual @ residual @ (3 * torch.eye(6) + residual) / 4
    found = torch.eye(6).double() - matrix @ pseudo_inverse(matrix)
    torch.testing.assert_close(found, residual)


def test_nystrom_attention_by_its_three_matrices(monkeypatch):
    """With another function for the inverse, of which rounding makes less."""

    def between(matrix: Tensor) -> Tensor:
        return matrix.mT @ matrix + 3 * matrix

    module = "setformer_mm.models.mixers.nystromformer"
    monkeypatch.setattr(f"{module}.pseudo_inverse", between)
    q, k, v = random_heads()
    means = torch.kron(torch.eye(6), torch.full((1, 5), 1 / 5)).double()
    of_q, of_k = means @ q, means @ k
    left, right = (q @ of_k.mT / 2).softmax(-1), (of_q @ k.mT / 2).softmax(-1)
    middle = between((of_q @ of_k.mT / 2).softmax(-1))
    out = nystrom_attention(q, k, v, 6)
    torch.testing.assert_close(out, dense(left @ middle @ right, v))


def test_segments_of_a_length_that_does_not_divide():
    x = torch.arange(7.0).view(1, 1, 7, 1)
    assert segment_means(x, 3).flatten().tolist() == [1.0, 3.0, 5.0]


@pytest.mark.parametrize("num_landmarks", [30, 64])
def test_a_landmark_a_token_is_softmax_attention(num_landmarks):
    q, k, v = random_heads()
    expected = (q @ k.mT / 2).softmax(-1) @ v
    torch.testing.assert_close(nystrom_attention(q, k, v, num_landmarks), expected)


def test_the_convolution_runs_along_the_sequence_of_each_head():
    q, k, v = (x[:, :2].float() for x in random_heads())
    mixer = NystromAttention(8, 2, num_landmarks=6, kernel_size=3)
    without = NystromAttention(8, 2, num_landmarks=6, kernel_size=None)
    skip = mixer.mix(q, k, v, GRID) - without.mix(q, k, v, GRID)
    left, centre, right = mixer.conv.weight.view(1, 2, 3, 1, 1).unbind(2)
    padded = F.pad(v, (0, 0, 1, 1))
    expected = left * padded[:, :, :-2] + centre * v + right * padded[:, :, 2:]
    torch.testing.assert_close(skip, expected, rtol=1e-4, atol=1e-5)
