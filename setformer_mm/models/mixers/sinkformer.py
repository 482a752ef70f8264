"""Sinkformer: softmax attention made doubly stochastic."""

import math

from torch import Tensor

from ...ops.autocast import without_autocast
from ..token_mixer import TOKEN_MIXERS, QueryKeyValueMixer, at_least_float32
from .sinkhorn import require_odd, transport_plan


def sinkhorn_attention(q: Tensor, k: Tensor, v: Tensor, num_steps: int) -> Tensor:
    """``O = K V``, ``K`` is ``exp(Q K^T / sqrt(D))`` with rows and columns scaled to 1.

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.
        num_steps (int): Scalings, the first one of rows: 1 is softmax attention.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return transport_plan(scores, 0.0, 0.0, num_steps) @ v


@TOKEN_MIXERS.register_module()
class SinkhornAttention(QueryKeyValueMixer):
    """Softmax attention whose matrix is normalised over rows and columns in turn.

    "Sinkformers: Transformers with Doubly Stochastic Attention", arXiv 2110.11773:
    ``K^0 = exp(Q K^T / sqrt(D))``, ``K^(l+1)`` is ``K^l`` with its rows scaled to sum
    1 for even ``l``, and its columns for odd ``l``. Like theirs it ends with the rows;
    on logarithms, and differentiated through its steps. Quadratic in the tokens.

    Args:
        embed_dims (int): See :class:`QueryKeyValueMixer`.
        num_heads (int): Likewise.
        num_steps (int): Scalings, odd.
        one_projection (bool): See :class:`QueryKeyValueMixer`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_steps: int = 5,
        one_projection: bool = False,
    ) -> None:
        super().__init__(embed_dims, num_heads, one_projection)
        require_odd(num_steps)
        self.num_steps = num_steps

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int]
    ) -> Tensor:
        with without_autocast(q):
            out = sinkhorn_attention(*at_least_float32(q, k, v), self.num_steps)
        return out.to(q.dtype)

    def extra_repr(self) -> str:
        return f"num_steps={self.num_steps}, {super().extra_repr()}"
