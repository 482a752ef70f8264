"""The MLP of a block, without new memory where nobody can tell."""

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from .pointwise_linear import PointwiseLinear


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
            PointwiseLinear(embed_dims, hidden_dims),
            nn.GELU(),
            PointwiseLinear(hidden_dims, embed_dims),
        )

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not self._is_hidden_private():
            return super().forward(x)
        expand, gelu, contract = self
        hidden = expand(x)
        return contract(
            gelu(hidden) if hidden.requires_grad else torch.ops.aten.gelu_(hidden)
        )

    def _is_hidden_private(self) -> bool:
        """Whether both layers around it are those of ``__init__``, without hooks."""
        expand, gelu, _ = self
        return (
            type(expand) is PointwiseLinear
            and type(gelu) is nn.GELU
            and not (_has_hooks(expand) or _has_hooks(gelu))
        )


def _has_hooks(module: nn.Module) -> bool:
    """Whether a forward pass calls any; torch has no public way to ask."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or torch_modules._global_forward_hooks
        or torch_modules._global_forward_pre_hooks
    )
