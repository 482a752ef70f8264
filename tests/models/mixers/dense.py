"""What tests of mixers share: random heads, and mixing by a matrix written out."""

import math

import torch
from torch import Tensor

GRID = 5, 6


def random_heads(count: int = 3, num_tokens: int = math.prod(GRID)) -> list[Tensor]:
    return [torch.randn(2, 3, num_tokens, 4).double() for _ in range(count)]


def dense(weights: Tensor, v: Tensor) -> Tensor:
    """Mix by a matrix that was written out."""
    return torch.einsum("bhij,bhjd->bhid", weights, v)
