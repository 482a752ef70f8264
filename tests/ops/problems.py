"""Inputs of the operator for tests: random ones, and ones that look for trouble."""

import functools
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GEOMETRIES = ("image", "sequence", "no positions")


def random_tensors(
    batch=2, tokens=12, heads=2, dim=5, anchors=4, references=6, dtype=torch.float64
) -> list[Tensor]:
    """Tokens, anchors and both sets of references, which require gradients."""
    shapes = (
        (batch, tokens, heads, dim),
        (heads, anchors, dim),
        (heads, references, dim),
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


@functools.cache
def real_features() -> Tensor:
    """Tokens of a trained backbone, of shape ``(1296, 128)``.

    What enters the third attention of the third stage of setformer_digits.pth in
    configs/digits/checkpoints (its ``in_proj``) for four photographs of scikit-image
    (astronaut, chelsea, coffee, rocket) at 288x288, in float16.
    """
    with np.load(Path(__file__).parent / "features.npz") as file:
        return torch.from_numpy(file["features"]).double()


def centroids(points: Tensor, count: int) -> Tensor:
    """Centroids of directions ``(n, D)`` after a few steps of K-means."""
    points = F.normalize(points, dim=-1)
    centres = points[torch.randperm(len(points))[:count]]
    for _ in range(5):
        labels = (points @ centres.mT).argmax(-1)
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        empty = sums.norm(dim=-1, keepdim=True) == 0
        centres = F.normalize(torch.where(empty, centres, sums), dim=-1)
    return centres


def clustered_tensors(batch, tokens, heads, dim, anchors, references) -> list[Tensor]:
    """Tokens between real features, anchors and both sets of references from K-means of
    these: what a trained model has. Condition numbers of the kernel matrices reach
    10,000.
    """
    x = torch.empty(batch, tokens, heads, dim, dtype=torch.float64)
    maps = []
    for head in range(heads):
        first = random.randrange(real_features().shape[1] - dim + 1)
        features = real_features()[:, first : first + dim]
        pairs = features[torch.randint(len(features), (2, batch * tokens))]
        x[:, :, head] = torch.lerp(*pairs, random.random()).view(batch, tokens, dim)
        counts = anchors, references, references
        maps.append([centroids(features, n) for n in counts])
    return [x, *map(torch.stack, zip(*maps))]
