"""Position exponents against dense weights, and the smallest of them."""

import random

import numpy as np
import pytest
import torch

from setformer_mm.ops.positions import position_exponents, smallest_exponent

from .naive import position_weights


def random_geometry(is_image):
    """Shapes and counts; sides differ, so that swapped axes are seen."""
    if not is_image:
        return None, None, random.randint(1, 20), random.randint(1, 9)
    spatial = random.randint(1, 4), random.randint(5, 7)
    reference = random.randint(4, 5), random.randint(1, 3)
    return spatial, reference, spatial[0] * spatial[1], reference[0] * reference[1]


def dense_exponents(geometry, tau):
    rows, cols = position_exponents(*geometry, tau, like=torch.zeros(0).double())
    return (rows[:, None] + cols).flatten(0, 1)


@pytest.mark.parametrize("is_image", [True, False])
def test_factors_multiply_to_the_dense_weights(is_image):
    for tau in (0.15, 0.5):
        geometry = random_geometry(is_image)
        spatial, reference, num_tokens, num_references = geometry
        expected = position_weights(num_tokens, num_references, spatial, reference, tau)
        np.testing.assert_allclose(dense_exponents(geometry, tau).exp(), expected)


@pytest.mark.parametrize("is_image", [True, False])
def test_smallest_exponent_is_that_of_the_dense_ones(is_image):
    for _ in range(10):
        geometry = random_geometry(is_image)
        expected = dense_exponents(geometry, 0.15).min().item()
        assert smallest_exponent(*geometry, 0.15) == pytest.approx(expected)


def test_dtype_follows_the_given_tensor():
    for dtype in (torch.float32, torch.float64):
        like = torch.zeros(0, dtype=dtype)
        for factor in position_exponents((2, 3), (2, 2), 6, 4, 0.15, like=like):
            assert factor.dtype == dtype
