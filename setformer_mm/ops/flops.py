"""Multiply-adds of the operator over folded parameters.

Those of the mathematics in the scaling form, whichever implementation runs. Torch's
counter reports two operations for each.
"""

from collections.abc import Sequence


def forward_multiply_adds(
    x_shape: Sequence[int], score_maps_shape: Sequence[int], num_iters: int
) -> int:
    """Multiply-adds of the output, without the fold.

    A head of an image costs ``N (D K + 4 K M + (4 L + 1) M)`` for kernel features, the
    scores of both ways, the aggregation onto the references, the way back and
    Sinkhorn's products, and ``M K^2`` for the embedding of the aggregates.

    Args:
        x_shape (Sequence[int]): ``(B, N, h, D)``.
        score_maps_shape (Sequence[int]): ``(h, K, 2 M)``.
        num_iters (int): ``L``.

    Returns:
        int: Multiply-adds of all images and heads.
    """
    batch, n, heads, d = x_shape
    k, m = score_maps_shape[1], score_maps_shape[2] // 2
    by_token = d * k + 4 * k * m + (4 * num_iters + 1) * m
    return batch * heads * (n * by_token + m * k**2)


def backward_multiply_adds(
    x_shape: Sequence[int], score_maps_shape: Sequence[int], num_iters: int
) -> int:
    """Multiply-adds of the gradients of tokens and maps, without what is recomputed.

    Every product has two factors with a gradient each, but for Sinkhorn's first, which
    multiplies by ones. Arguments are those of :func:`forward_multiply_adds`.

    Returns:
        int: Multiply-adds of all images and heads.
    """
    batch, n, heads, _ = x_shape
    products = forward_multiply_adds(x_shape, score_maps_shape, num_iters)
    return 2 * products - batch * heads * n * score_maps_shape[-1]
