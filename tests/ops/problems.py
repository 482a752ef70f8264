"""Inputs of the operator for tests: random ones, and ones that look for trouble."""

import random

import torch
from torch import Tensor
from torch.nn import functional as F

GEOMETRIES = ("image", "sequence", "no positions")


def random_tensors(
    batch=2, tokens=12, heads=2, dim=5, anchors=4, references=6, dtype=torch.float64
) -> list[Tensor]:
    """Tokens, anchors and references that require gradients."""
    shapes = (
        (batch, tokens, heads, dim),
        (heads, anchors, dim),
        (heads, references, dim),
    )
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]


def random_problem(
    geometry: str, dtype=torch.float64, **sizes
) -> tuple[list[Tensor], dict]:
    """Tensors of a random shape, and the geometry arguments that go with them."""
    grid = random.randint(2, 5), random.randint(2, 5)
    reference_grid = random.randint(1, 3), random.randint(2, 4)
    tensors = random_tensors(
        batch=sizes.pop("batch", random.randint(1, 3)),
        tokens=grid[0] * grid[1],
        heads=random.randint(1, 3),
        dim=random.randint(3, 8),
        anchors=random.randint(2, 7),
        references=reference_grid[0] * reference_grid[1],
        dtype=dtype,
        **sizes,
    )
    if geometry == "image":
        return tensors, dict(spatial_shape=grid, reference_shape=reference_grid)
    return tensors, dict(tau=None) if geometry == "no positions" else {}


def orthonormal_anchors(heads=1, dim=5, dtype=torch.float64) -> Tensor:
    """Anchors whose kernel matrix has one eigenvalue ``dim - 1`` times."""
    return torch.linalg.qr(torch.randn(heads, dim, dim, dtype=dtype)).Q.contiguous()


def clustered_anchors(
    heads=2, count=32, dim=32, spread=0.1, dtype=torch.float64
) -> Tensor:
    """Anchors near each other, ill-conditioned as centroids from K-means are."""
    centre = torch.randn(heads, 1, dim, dtype=dtype)
    noise = spread * torch.randn(heads, count, dim, dtype=dtype)
    return F.normalize(F.normalize(centre, dim=-1) + noise, dim=-1)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.detach().double(), expected.detach().double()
    return ((actual - expected).norm() / expected.norm()).item()


def gradients_of(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of the inputs for a smooth, non-constant loss of the output."""
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    return list(
        torch.autograd.grad(out, inputs, weight.to(out.dtype), retain_graph=True)
    )
