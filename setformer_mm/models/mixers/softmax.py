"""Softmax attention: ``O = softmax(Q K^T / sqrt(D)) V``."""

from torch import Tensor
from torch.nn import functional as F

from ..token_mixer import TOKEN_MIXERS, QueryKeyValueMixer


@TOKEN_MIXERS.register_module()
class SoftmaxAttention(QueryKeyValueMixer):
    """Global softmax attention, by torch's fused kernel; quadratic in the tokens.

    "Attention Is All You Need", arXiv 1706.03762, equation 1, without windows and
    without a position bias.
    """

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int]
    ) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)
