"""The MLP of a block, without new memory where nobody can tell."""

import torch
from torch import Tensor, nn

from ..utils.errors import UnfitWeightsError
from .padding import zero_padding
from .pointwise_linear import is_plain, pointwise_linear


class MLP(nn.Sequential):
    """Linear layer, GELU and linear layer over the last dimension.

    Where no gradient is wanted, GELU overwrites what the layer before it returned, the
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
        hidden = _activate(gelu, expand, pointwise_linear(expand, x))
        return pointwise_linear(contract, hidden)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """Load, but for weights of a :class:`MixFFN`."""
        _refuse_weights(state_dict, prefix, "conv.weight", mix_ffn=True)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MixFFN(nn.Module):
    """An MLP whose hidden tokens see their neighbours by a depthwise 3x3 convolution.

    As in SegFormer (Xie et al., NeurIPS 2021, eq. 3) and PVTv2 (Wang et al., 2022).

    Args:
        embed_dims (int): Channels of input and output.
        hidden_dims (int): Channels in between.
    """

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.expand = nn.Linear(embed_dims, hidden_dims)
        self.conv = nn.Conv2d(
            hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims
        )
        self.gelu = nn.GELU()
        self.contract = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor, valid_shape: Tensor | None = None) -> Tensor:
        """Take tokens ``(B, H, W, C)`` to tokens of the same shape.

        Args:
            x (Tensor): The tokens.
            valid_shape (Tensor, optional): Valid rows and columns of each image, int64
                of shape ``(B, 2)``; None if all are.
        """
        hidden = zero_padding(pointwise_linear(self.expand, x), valid_shape)
        hidden = self.conv(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        hidden = _activate(self.gelu, self.conv, hidden)
        return pointwise_linear(self.contract, hidden)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """Load, but for weights of an :class:`MLP`."""
        _refuse_weights(state_dict, prefix, "0.weight", mix_ffn=False)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _activate(gelu: nn.Module, layer: nn.Module, hidden: Tensor) -> Tensor:
    """Apply a GELU to what a layer returned, and overwrite that if nobody can tell."""
    if (
        torch.compiler.is_compiling()
        or hidden.requires_grad
        or not is_plain(gelu, nn.GELU)
        or not (is_plain(layer, nn.Linear) or is_plain(layer, nn.Conv2d))
    ):
        return gelu(hidden)
    return torch.ops.aten.gelu_(hidden)


def _refuse_weights(state_dict: dict, prefix: str, name: str, mix_ffn: bool) -> None:
    """Refuse weights of the other kind: those of an ``init_cfg`` would be left out."""
    if prefix + name in state_dict:
        raise UnfitWeightsError(
            f"{prefix.rstrip('.') or 'the MLP'} must have mix_ffn={mix_ffn}, as when "
            f"its weights were trained, got mix_ffn={not mix_ffn}: give the backbone "
            f"mix_ffn={mix_ffn}, or leave these weights out"
        )
