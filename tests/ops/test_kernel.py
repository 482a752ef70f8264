"""Unit vectors without overflow or underflow, and the Gaussian kernel on them."""

import math

import pytest
import torch

from setformer_mm.ops.kernel import gaussian_kernel, norm_floor, unit_vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_direction_times_length_is_the_vector(dtype):
    v = torch.randn(3, 7, 5, dtype=dtype)
    direction, length = unit_vectors(v)
    torch.testing.assert_close(direction * length, v)
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(3, 7, dtype=dtype))
    assert (length > 0).all()


@pytest.mark.parametrize("scale", [1e-29, 1e-20, 1e20, 1e38])
def test_extreme_norms_keep_their_direction(scale):
    """Their squares are not representable in float32."""
    v = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
    direction, length = unit_vectors(v * scale)
    torch.testing.assert_close(direction, v, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(length, torch.full((6, 1), scale))


def test_vectors_at_the_floor_are_zero_with_zero_gradient():
    floor = 0.5
    v = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 0.5], [0.3, 0.5]])
    v.requires_grad_()
    direction, length = unit_vectors(v, floor)
    (direction.sum() + length.sum()).backward()
    for t in (direction, length, v.grad):
        assert (t[:3] == 0).all()
        assert (t[3] != 0).all()


def test_nan_is_not_mistaken_for_zero():
    direction, length = unit_vectors(torch.tensor([[math.nan, 1.0]]))
    assert direction.isnan().all() and length.isnan().all()


def test_gradients_of_direction_and_length():
    v = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_vectors, (v,))


def test_norm_floor_is_the_least_normal_number_where_that_is_larger():
    assert norm_floor(torch.float16) == torch.finfo(torch.float16).tiny
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert norm_floor(dtype) == 1e-30


def test_kernel_is_gaussian_in_the_distance_on_the_sphere():
    a, b = (
        torch.nn.functional.normalize(torch.randn(2, n, 4, dtype=torch.float64), dim=-1)
        for n in (3, 5)
    )
    for alpha in (0.5, 2.0, 8.0):
        k = gaussian_kernel(a, b, alpha)
        torch.testing.assert_close(k, torch.exp(-alpha / 2 * torch.cdist(a, b) ** 2))
        assert (k >= math.exp(-2 * alpha) - 1e-12).all() and (k <= 1 + 1e-12).all()
