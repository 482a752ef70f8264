"""Linear positional encoding: weights that fade with the distance to a reference.

The weight of token ``i`` for reference ``j`` is ``exp(-((p_i - q_j) / tau)^2)`` a
dimension. On an image it is the product of a factor over rows and one over columns, so
that nothing of size ``N x M`` has to be stored. A sequence is a grid of one column
whose column factor is 1.
"""

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
    valid: tuple[Tensor, Tensor] | None = None,
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
        valid (tuple[Tensor, Tensor], optional): Numbers of rows and of columns of each
            image that are no padding, of shape ``(B, 1)``: the first ones, to which
            positions are relative. None: all.

    Returns:
        tuple[Tensor, Tensor]: Of shapes ``(H_t, M)`` and ``(W_t, M)``; for a sequence
        ``(N, M)`` and ``(1, M)``, the latter zero. With ``valid``, ``B`` comes first;
        not before that ``(1, M)``.
    """
    valid_rows, valid_cols = (None, None) if valid is None else valid

    def axis(n: int, offset: float, count: Tensor | None = None) -> Tensor:
        cells = torch.arange(n, dtype=like.dtype, device=like.device) + offset
        return cells / (n if count is None else count)

    def exponents(tokens: Tensor, references: Tensor) -> Tensor:
        return -(((tokens.unsqueeze(-1) - references) / tau) ** 2)

    if spatial_shape is None:
        rows = exponents(
            axis(num_tokens, _SEQUENCE_END, valid_rows),
            axis(num_references, _SEQUENCE_END),
        )
        return rows, rows.new_zeros(1, num_references)
    (height, width), (ref_height, ref_width) = spatial_shape, reference_shape
    row_of_reference = axis(ref_height, _CELL_CENTRE).repeat_interleave(ref_width)
    col_of_reference = axis(ref_width, _CELL_CENTRE).repeat(ref_height)
    return (
        exponents(axis(height, _CELL_CENTRE, valid_rows), row_of_reference),
        exponents(axis(width, _CELL_CENTRE, valid_cols), col_of_reference),
    )


def smallest_exponent(
    spatial_shape: Shape2d | None,
    reference_shape: Shape2d | None,
    num_tokens: int,
    num_references: int,
    tau: float,
) -> float:
    """The exponent between the token and the reference that are furthest apart.

    Arguments are those of :func:`position_exponents`; sizes may be symbols of
    torch.compile.

    Returns:
        float: At most 0.
    """
    if spatial_shape is None:
        # The first position of one against the last of the other.
        gaps = [_SEQUENCE_END - _SEQUENCE_END / max(num_tokens, num_references)]
    else:
        # Cell centres next to opposite sides.
        axes = zip(spatial_shape, reference_shape)
        gaps = [1 - _CELL_CENTRE / n - _CELL_CENTRE / r for n, r in axes]
    return -sum(gap**2 for gap in gaps) / tau**2
