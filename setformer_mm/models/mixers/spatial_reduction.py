"""PVT's attention: all queries, and keys and values of a coarser grid."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..pointwise_linear import pointwise_linear
from ..token_mixer import (
    TOKEN_MIXERS,
    TokenMixer,
    merge_heads,
    pad_to_multiples,
    require_divisible,
    require_positive_integer,
    split_heads,
)


@TOKEN_MIXERS.register_module()
class SpatialReductionAttention(TokenMixer):
    """Softmax attention to patches of ``R x R`` tokens, each of them projected to one.

    "Pyramid Vision Transformer", arXiv 2102.12122: ``softmax(Q K^T / sqrt(D)) V`` with
    ``K`` and ``V`` from ``SR(x) = Norm(Reshape(x, R) W)``, which is a convolution of
    kernel and stride ``R`` and a LayerNorm. Grids are padded with zeros to a multiple
    of ``R``, where the authors' code leaves out the last rows. Quadratic in the tokens,
    divided by ``R^2``.

    Args:
        embed_dims (int): Channels ``C``, divisible by ``num_heads``.
        num_heads (int): Heads.
        reduction (int): ``R``; the authors have 8, 4, 2, 1 in their four stages. With 1
            there is neither convolution nor norm: softmax attention.
    """

    is_two_dimensional = True

    def __init__(self, embed_dims: int, num_heads: int, reduction: int = 1) -> None:
        super().__init__()
        require_divisible(embed_dims, num_heads)
        require_positive_integer(reduction=reduction)
        self.num_heads, self.reduction = num_heads, reduction
        self.q_proj = nn.Linear(embed_dims, embed_dims)
        if reduction > 1:
            self.reduce = nn.Conv2d(embed_dims, embed_dims, reduction, stride=reduction)
            self.norm = nn.LayerNorm(embed_dims)
        self.kv_proj = nn.Linear(embed_dims, 2 * embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)

    def coarse(self, x: Tensor) -> Tensor:
        """Take tokens ``(B, H, W, C)`` to those of the coarser grid."""
        if self.reduction == 1:
            return x
        maps = pad_to_multiples(x.permute(0, 3, 1, 2), (self.reduction,) * 2)
        return self.norm(self.reduce(maps).permute(0, 2, 3, 1))

    def forward(self, x: Tensor, prepared: Any = None) -> Tensor:
        (q,) = split_heads(pointwise_linear(self.q_proj, x), 1, self.num_heads)
        projected = pointwise_linear(self.kv_proj, self.coarse(x))
        k, v = split_heads(projected, 2, self.num_heads)
        out = F.scaled_dot_product_attention(q, k, v)
        return pointwise_linear(self.out_proj, merge_heads(out, x.shape))

    def extra_repr(self) -> str:
        return f"reduction={self.reduction}"
