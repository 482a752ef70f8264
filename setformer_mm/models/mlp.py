"""The MLP of a block, without new memory where nobody can tell."""

import torch
from torch import Tensor, nn

from .pointwise_linear import is_plain, pointwise_linear


class MLP(nn.Sequential):
    """Linear layer, GELU and linear layer over the last dimension.

    Where no gradient is wanted, GELU overwrites what the first layer returned, the
    widest tensor of a block: on a CPU fetching new memory takes longer than GELU
    itself. Whoever looks at that tensor by a hook gets it unharmed.

    Args:
        embed_dims (int): Channels of input and output.
        hidden_dims (int): Channels in between.
    """

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__(
            nn.Linear(embed_dims, hidden_dims),
            nn.GELU(),
            nn.Linear(hidden_dims, embed_dims),
        )

    def forward(self, x: Tensor) -> Tensor:
        expand, gelu, contract = self
        hidden = pointwise_linear(expand, x)
        if self._may_overwrite(hidden):
            torch.ops.aten.gelu_(hidden)
        else:
            hidden = gelu(hidden)
        return pointwise_linear(contract, hidden)

    def _may_overwrite(self, hidden: Tensor) -> bool:
        if torch.compiler.is_compiling() or hidden.requires_grad:
            return False
        expand, gelu, _ = self
        return is_plain(expand, nn.Linear) and is_plain(gelu, nn.GELU)
