"""Linear positional encoding: weights that fade with the distance to a reference.

The weight of token ``i`` for reference ``j`` is ``exp(-((p_i - q_j) / tau)^2)`` a
dimension. On an image it is the product of a factor over rows and one over columns, so
that nothing of size ``N x M`` has to be stored. A sequence is a grid of one column
whose column factor is 1.
"""

from functools import lru_cache

import torch
from torch import Tensor

Shape2d = tuple[int, int]

# The i-th of n positions along an axis is (i + offset) / n.
_CELL_CENTRE = 0.5
_SEQUENCE_END = 1.0


def position_exponents(
    spatial_shape: Shape2d | None,
    reference_shape: Shape2d | None,
    num_tokens: int,
    num_references: int,
    tau: float,
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    """Exponents ``-((p - q) / tau)^2`` over rows and over columns (method, step 6).

    Args:
        spatial_shape (tuple[int, int] | None): Token grid ``(H_t, W_t)``, row-major;
            None for a sequence.
        reference_shape (tuple[int, int] | None): Reference grid, likewise.
        num_tokens (int): ``N``.
        num_references (int): ``M``.
        tau (float): Width of the weights as a fraction of the side, positive.
        like (Tensor): Gives dtype and device.

    Returns:
        tuple[Tensor, Tensor]: Of shapes ``(H_t, M)`` and ``(W_t, M)``; for a sequence
        ``(N, M)`` and ``(1, M)``, the latter zero.
    """

    def axis(n: int, offset: float) -> Tensor:
        return (torch.arange(n, dtype=like.dtype, device=like.device) + offset) / n

    def exponents(tokens: Tensor, references: Tensor) -> Tensor:
        return -(((tokens[:, None] - references) / tau) ** 2)

    if spatial_shape is None:
        rows = exponents(
            axis(num_tokens, _SEQUENCE_END), axis(num_references, _SEQUENCE_END)
        )
        return rows, rows.new_zeros(1, num_references)
    (height, width), (ref_height, ref_width) = spatial_shape, reference_shape
    row_of_reference = axis(ref_height, _CELL_CENTRE).repeat_interleave(ref_width)
    col_of_reference = axis(ref_width, _CELL_CENTRE).repeat(ref_height)
    return (
        exponents(axis(height, _CELL_CENTRE), row_of_reference),
        exponents(axis(width, _CELL_CENTRE), col_of_reference),
    )


@lru_cache(maxsize=1024)
def smallest_best_exponent(
    spatial_shape: Shape2d | None,
    reference_shape: Shape2d | None,
    num_tokens: int,
    num_references: int,
    tau: float,
) -> float:
    """The exponent between the most remote token and the reference nearest to it, or
    between the most remote reference and its nearest token if that is smaller.

    Where it is far below zero, a token or a reference sees nothing but weights that
    underflow. Arguments are those of :func:`position_exponents`.

    Returns:
        float: At most 0.
    """
    if spatial_shape is None:
        axes = [(num_tokens, num_references, _SEQUENCE_END)]
    else:
        axes = [(n, r, _CELL_CENTRE) for n, r in zip(spatial_shape, reference_shape)]
    by_token = sum(_largest_gap(n, r, offset) ** 2 for n, r, offset in axes)
    by_reference = sum(_largest_gap(r, n, offset) ** 2 for n, r, offset in axes)
    return -max(by_token, by_reference) / tau**2


def _largest_gap(n: int, m: int, offset: float) -> float:
    """The largest distance of one of ``n`` positions to the nearest of ``m``."""
    gap = 0.0
    for i in range(n):
        position = (i + offset) / n
        nearest = min(max(round(position * m - offset), 0), m - 1)
        gap = max(gap, abs(position - (nearest + offset) / m))
    return gap
