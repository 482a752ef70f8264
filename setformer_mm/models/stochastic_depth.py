"""Stochastic depth, as ``torchvision.ops.StochasticDepth`` of mode "row".

A dependency on torchvision would let pip replace the torch at hand: each release of it
wants one release of torch.
"""

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Set the branch of some samples to 0 in training, and scale that of the others.

    Args:
        p (float): Probability for a sample, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = 1 - self.p
        shape = [x.shape[0]] + [1] * (x.dim() - 1)
        return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(
            kept
        ).div_(kept)

    def extra_repr(self) -> str:
        return f"p={self.p}"
