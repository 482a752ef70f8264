"""cosFormer: linear attention of rectified tokens, weighted by their distance."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops.autocast import without_autocast
from ..token_mixer import TOKEN_MIXERS, QueryKeyValueMixer, at_least_float32

LEAST_SUM = 1e-6  # of a row of scores, which are all 0 where no channels are shared


def cosformer_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``O_i = sum_j S_ij v_j / sum_j S_ij`` with
    ``S_ij = <relu(q_i), relu(k_j)> cos(pi (i - j) / 2N)``.

    Linear, because ``cos(a - b) = cos a cos b + sin a sin b``: queries and keys become
    twice as long.

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``; position is the index.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``; 0 for a query that shares no channel.
    """
    count = q.shape[-2]
    angles = torch.arange(count, device=q.device, dtype=q.dtype)[:, None]
    angles = angles * (math.pi / 2 / count)
    cos, sin = angles.cos(), angles.sin()
    q, k = F.relu(q), F.relu(k)
    q, k = torch.cat([q * cos, q * sin], -1), torch.cat([k * cos, k * sin], -1)
    sums = q @ k.sum(-2, keepdim=True).mT
    return q @ (k.mT @ v) / sums.clamp(min=LEAST_SUM)


@TOKEN_MIXERS.register_module()
class CosFormerAttention(QueryKeyValueMixer):
    """Linear attention with a cosine of the distance along the row-major sequence.

    "cosFormer: Rethinking Softmax in Attention", arXiv 2202.08791, without a causal
    mask, as in its authors' code.
    """

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int]
    ) -> Tensor:
        with without_autocast(q):
            return cosformer_attention(*at_least_float32(q, k, v)).to(q.dtype)
