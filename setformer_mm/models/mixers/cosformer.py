"""cosFormer: linear attention of rectified tokens, weighted by their distance."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops.autocast import without_autocast
from ..token_mixer import (
    TOKEN_MIXERS,
    QueryKeyValueMixer,
    at_least_float32,
    divisors,
    valid_tokens,
)

LEAST_SUM = 1e-6  # of a row of scores, which are all 0 where no channels are shared


def cosformer_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """``O_i = sum_j S_ij v_j / sum_j S_ij`` with
    ``S_ij = <relu(q_i), relu(k_j)> cos(pi (i - j) / 2N)``.

    Linear, because ``cos(a - b) = cos a cos b + sin a sin b``: queries and keys become
    twice as long.

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``; position is the index.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.
        lengths (Tensor, optional): Tokens of each sequence that count, of shape
            ``(B,)``; None if all do.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``; 0 for a query that shares no channel.
    """
    count = q.shape[-2]
    angles = torch.arange(count, device=q.device, dtype=q.dtype)[:, None]
    angles = angles * (math.pi / 2 / (count if lengths is None else divisors(lengths)))
    cos, sin = angles.cos(), angles.sin()
    q, k = F.relu(q), F.relu(k)
    if lengths is not None:
        k = k.where(valid_tokens(lengths, count), 0)
    q, k = torch.cat([q * cos, q * sin], -1), torch.cat([k * cos, k * sin], -1)
    sums = q @ k.sum(-2, keepdim=True).mT
    return q @ (k.mT @ v) / sums.clamp(min=LEAST_SUM)


@TOKEN_MIXERS.register_module()
class CosFormerAttention(QueryKeyValueMixer):
    """Linear attention with a cosine of the distance along the row-major sequence.

    "cosFormer: Rethinking Softmax in Attention", arXiv 2202.08791, without a causal
    mask, as in its authors' code.
    """

    handles_lengths = True

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spatial_shape: tuple[int, int],
        lengths: Tensor | None = None,
    ) -> Tensor:
        with without_autocast(q):
            out = cosformer_attention(*at_least_float32(q, k, v), lengths)
        return out.to(q.dtype)
