"""Softmax attention: ``O = softmax(Q K^T / sqrt(D)) V``."""

from torch import Tensor
from torch.nn import functional as F

from ..token_mixer import TOKEN_MIXERS, QueryKeyValueMixer, valid_tokens


@TOKEN_MIXERS.register_module()
class SoftmaxAttention(QueryKeyValueMixer):
    """Global softmax attention, by torch's fused kernel; quadratic in the tokens.

    "Attention Is All You Need", arXiv 1706.03762, equation 1, without windows and
    without a position bias.
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
        mask = None if lengths is None else valid_tokens(lengths, k.shape[2]).mT
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
