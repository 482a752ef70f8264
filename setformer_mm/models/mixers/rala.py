"""RALA: linear attention whose buffer and output are given a higher rank."""

from torch import Tensor, nn
from torch.nn import functional as F

from ...ops.autocast import without_autocast
from ..pointwise_linear import pointwise_linear
from ..token_mixer import (
    TOKEN_MIXERS,
    QueryKeyValueMixer,
    at_least_float32,
    divisors,
    softmax_of_tokens,
    valid_tokens,
)

# Of a query's scores, where all of its channels are far below 0; the authors add 1e-6,
# from which gradients leave the range of float16.
LEAST_SUM = 1e-4


def rank_augmented_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """``O_i = f(q_i) sum_j a_j f(k_j)^T v_j / (f(q_i) sum_j a_j f(k_j)^T)``.

    With ``f(x) = elu(x) + 1``, and weights of the keys by what the mean query finds in
    them, ``a_j = N softmax_j(mean_i(f(q_i)) f(k_j)^T / sqrt(D))``.

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.
        lengths (Tensor, optional): Tokens of each sequence that count, of shape
            ``(B,)``; None if all do.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    q, k = F.elu(q) + 1, F.elu(k) + 1
    # Means, not sums, over tokens: the factor N is in both parts of the fraction.
    valid, mean = None, q.mean(-2, keepdim=True)
    if lengths is not None:
        valid = valid_tokens(lengths, q.shape[-2])
        mean = q.where(valid, 0).sum(-2, keepdim=True) / divisors(lengths)
    scores = k @ mean.mT * q.shape[-1] ** -0.5
    k = softmax_of_tokens(scores, valid) * k
    sums = q @ k.sum(-2, keepdim=True).mT
    return q @ (k.mT @ v) / sums.clamp(min=LEAST_SUM)


@TOKEN_MIXERS.register_module()
class RankAugmentedAttention(QueryKeyValueMixer):
    """Linear attention with weighted keys, multiplied by a projection of its input.

    "Breaking the Low-Rank Dilemma of Linear Attention" (RALA), arXiv 2411.07635: the
    weights ``a_j`` make the summed buffer of keys and values less uniform, and the
    output ``Y_i = phi(x_i) * O_i``, with ``phi`` a linear layer as in the authors'
    code, gets its rank back. Rotary positions and the depthwise convolution of values
    that the code has beside these are left out: they would not be the mixer's own.

    Args:
        embed_dims (int): See :class:`QueryKeyValueMixer`.
        num_heads (int): Likewise.
        one_projection (bool): Likewise; the gate keeps its own.
    """

    handles_lengths = True

    def __init__(
        self, embed_dims: int, num_heads: int, one_projection: bool = False
    ) -> None:
        super().__init__(embed_dims, num_heads, one_projection)
        self.gate_proj = nn.Linear(embed_dims, embed_dims)

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spatial_shape: tuple[int, int],
        lengths: Tensor | None = None,
    ) -> Tensor:
        with without_autocast(q):
            out = rank_augmented_attention(*at_least_float32(q, k, v), lengths)
        return out.to(q.dtype)

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        return super().finish(pointwise_linear(self.gate_proj, x) * mixed, x)
