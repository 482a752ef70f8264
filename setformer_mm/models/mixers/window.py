"""Attention inside windows: the local control of a comparison."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..token_mixer import TOKEN_MIXERS, QueryKeyValueMixer, require_positive_integer


def to_windows(maps: Tensor, sides: tuple[int, int]) -> Tensor:
    """Take ``(..., H, W, D)`` to ``(..., rows, columns, tokens of a window, D)``."""
    parts = maps.unflatten(-3, (-1, sides[0])).unflatten(-2, (-1, sides[1]))
    return parts.transpose(-4, -3).flatten(-3, -2)


def from_windows(windows: Tensor, sides: tuple[int, int]) -> Tensor:
    """Invert :func:`to_windows`."""
    parts = windows.unflatten(-2, sides).transpose(-4, -3)
    return parts.flatten(-3, -2).flatten(-4, -3)


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int], bias: Tensor
) -> Tensor:
    """``softmax(Q K^T / sqrt(D) + B) V`` in each window, ``B`` by relative position.

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``, row-major.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.
        spatial_shape (tuple[int, int]): Grid ``(H, W)`` of the tokens; windows that
            reach beyond it are smaller, and a grid smaller than a window is one.
        bias (Tensor): Of shape ``(h, 2S - 1, 2S - 1)`` for windows of ``S x S``: by the
            rows and columns from a key to a query, from ``1 - S`` on.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    longest = (bias.shape[-1] + 1) // 2
    sides = tuple(min(longest, length) for length in spatial_shape)
    # Half of what is missing on either side: windows are symmetric in the grid.
    padding = [0, 0]
    for side, length in zip(sides[::-1], spatial_shape[::-1]):
        missing = -length % side
        padding += [missing // 2, missing - missing // 2]
    maps = torch.stack((q, k, v)).unflatten(3, spatial_shape)
    windows = to_windows(F.pad(maps, padding), sides)

    rows, columns = torch.meshgrid(*map(torch.arange, sides), indexing="ij")
    steps = [
        (p.reshape(-1, 1) - p.reshape(1, -1)) + longest - 1 for p in (rows, columns)
    ]
    weights = bias[:, steps[0], steps[1]][:, None, None]
    is_token = F.pad(torch.ones(*spatial_shape, 1, device=q.device), padding) > 0
    mask = to_windows(is_token, sides).mT
    weights = weights.masked_fill(~mask, -torch.inf)
    mixed = F.scaled_dot_product_attention(*windows, attn_mask=weights.to(q.dtype))

    top, left = padding[4], padding[2]
    height, width = spatial_shape
    out = from_windows(mixed, sides)[..., top : top + height, left : left + width, :]
    return out.flatten(2, 3)


@TOKEN_MIXERS.register_module()
class WindowAttention(QueryKeyValueMixer):
    """Softmax attention of each token to those of its window.

    "Swin Transformer", arXiv 2103.14030, equation 4, with its relative position bias.
    Windows are not shifted from block to block: no token learns anything from beyond
    its window, which is what a local control is for. Cells that fill a window up at the
    border are masked, and are on both sides of the grid, not at the lower right alone.

    Args:
        embed_dims (int): See :class:`QueryKeyValueMixer`.
        num_heads (int): Likewise.
        window_size (int): Side ``S`` of a window in tokens.
        one_projection (bool): See :class:`QueryKeyValueMixer`.
    """

    is_two_dimensional = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int = 7,
        one_projection: bool = False,
    ) -> None:
        super().__init__(embed_dims, num_heads, one_projection)
        require_positive_integer(window_size=window_size)
        # A bias by its name, too: weight decay leaves those alone.
        self.bias = nn.Parameter(torch.zeros(num_heads, *[2 * window_size - 1] * 2))
        nn.init.trunc_normal_(self.bias, std=0.02)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int]
    ) -> Tensor:
        return window_attention(q, k, v, tuple(spatial_shape), self.bias)
