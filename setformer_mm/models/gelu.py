"""GELU without new memory."""

import torch
from torch import Tensor, nn


class GELU(nn.GELU):
    """``nn.GELU`` that overwrites its input where no gradient is wanted.

    Between the two layers of an MLP nobody else needs that input, the widest tensor of
    a block. On a CPU fetching new memory for it takes longer than GELU itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return super().forward(x)
        return torch.ops.aten.gelu_(x, approximate=self.approximate)
