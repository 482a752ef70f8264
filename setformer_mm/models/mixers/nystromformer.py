"""Nystromformer: softmax attention by Nystrom's method, through means of segments."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...ops.autocast import without_autocast
from ..token_mixer import (
    TOKEN_MIXERS,
    QueryKeyValueMixer,
    at_least_float32,
    require_positive_integer,
    valid_tokens,
)

NUM_ITERS = 6  # of the pseudo-inverse, as in the paper


def pseudo_inverse(matrix: Tensor, num_iters: int = NUM_ITERS) -> Tensor:
    """Approach the Moore-Penrose inverse by an iteration of third order.

    ``Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4`` from
    ``Z = A^T / (|A|_1 |A|_inf)``.

    Args:
        matrix (Tensor): ``A``, of shape ``(..., m, m)``.
        num_iters (int): Iterations.

    Returns:
        Tensor: Of the same shape.
    """
    sums = matrix.abs()
    norms = sums.sum(-2).amax(-1) * sums.sum(-1).amax(-1)
    inverse = matrix.mT / norms[..., None, None]
    eye = torch.eye(matrix.shape[-1]).to(matrix)
    for _ in range(num_iters):
        product = matrix @ inverse
        inner = 15 * eye - product @ (7 * eye - product)
        inverse = inverse @ (13 * eye - product @ inner) / 4
    return inverse


def segment_means(x: Tensor, count: int, lengths: Tensor | None = None) -> Tensor:
    """Take ``(B, h, N, D)`` to means ``(B, h, count, D)`` of equal runs of tokens.

    Where ``count`` does not divide ``N``, or of ``lengths`` that of the sequence,
    neighbouring runs share a token.
    """
    if lengths is None:
        means = F.adaptive_avg_pool1d(x.mT.flatten(0, 1), count)
        return means.unflatten(0, x.shape[:2]).mT
    places = torch.arange(x.shape[2], device=x.device)
    runs = torch.arange(count, device=x.device)[:, None]
    lengths = lengths[:, None, None]
    first, last = runs * lengths // count, ((runs + 1) * lengths - 1) // count
    is_member = ((first <= places) & (places <= last)).to(x.dtype)
    sizes = is_member.sum(-1, keepdim=True).clamp(min=1)  # 0 in an empty sequence
    return (is_member / sizes)[:, None] @ x


def nystrom_attention(
    q: Tensor, k: Tensor, v: Tensor, num_landmarks: int, lengths: Tensor | None = None
) -> Tensor:
    """``O = s(Q L_K^T) s(L_Q L_K^T)^+ s(L_Q K^T) V``, ``s = softmax(. / sqrt(D))``.

    Landmarks ``L_Q`` and ``L_K`` are means of segments of the queries and keys. With as
    many landmarks as tokens, or more, it is softmax attention.

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``, row-major.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.
        num_landmarks (int): Landmarks of each.
        lengths (Tensor, optional): Tokens of each sequence that count, of shape
            ``(B,)``; None if all do.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    mask = None if lengths is None else valid_tokens(lengths, k.shape[2]).mT
    if num_landmarks >= q.shape[-2]:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scale = q.shape[-1] ** -0.5
    of_q = segment_means(q, num_landmarks, lengths)
    of_k = segment_means(k, num_landmarks, lengths)
    inverse = pseudo_inverse((scale * of_q @ of_k.mT).softmax(-1))
    gathered = F.scaled_dot_product_attention(of_q, k, v, attn_mask=mask)
    out = (scale * q @ of_k.mT).softmax(-1) @ (inverse @ gathered)
    if lengths is None:
        return out
    # Sequences of so few tokens lie within the first ones.
    first = [x[:, :, :num_landmarks] for x in (q, k, v)]
    of_short = F.scaled_dot_product_attention(
        *first, attn_mask=mask[..., :num_landmarks]
    )
    is_short = (lengths <= num_landmarks)[:, None, None, None]
    few, rest = out.tensor_split([num_landmarks], 2)
    return torch.cat([of_short.where(is_short, few), rest], 2)


@TOKEN_MIXERS.register_module()
class NystromAttention(QueryKeyValueMixer):
    """Softmax attention of low rank, and a depthwise convolution of the values.

    "Nystromformer: A Nystrom-Based Algorithm for Approximating Self-Attention", arXiv
    2102.03902: landmarks are means of segments of the row-major sequence, and the
    convolution, which runs along that sequence with one kernel a head, is a skip
    connection of the method itself. Unlike in the released code each matrix has a norm
    of its own at the start of the inverse.

    Args:
        embed_dims (int): See :class:`QueryKeyValueMixer`.
        num_heads (int): Likewise.
        num_landmarks (int): Landmarks.
        kernel_size (int | None): Tokens under the convolution, odd; None leaves it out.
        one_projection (bool): See :class:`QueryKeyValueMixer`.
    """

    handles_lengths = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_landmarks: int = 64,
        kernel_size: int | None = 33,
        one_projection: bool = False,
    ) -> None:
        super().__init__(embed_dims, num_heads, one_projection)
        require_positive_integer(num_landmarks=num_landmarks)
        if kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0):
            raise ValueError(
                f"kernel_size must be odd and positive, or None, got {kernel_size}"
            )
        self.num_landmarks = num_landmarks
        self.conv = kernel_size and nn.Conv2d(
            num_heads,
            num_heads,
            (kernel_size, 1),
            padding=(kernel_size // 2, 0),
            groups=num_heads,
            bias=False,
        )

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spatial_shape: tuple[int, int],
        lengths: Tensor | None = None,
    ) -> Tensor:
        with without_autocast(q):
            out = nystrom_attention(
                *at_least_float32(q, k, v), self.num_landmarks, lengths
            )
        if self.conv and lengths is not None:
            v = v.where(valid_tokens(lengths, v.shape[2]), 0)
        return out.to(q.dtype) + (self.conv(v) if self.conv else 0)

    def extra_repr(self) -> str:
        return f"num_landmarks={self.num_landmarks}, {super().extra_repr()}"
