"""The Gaussian kernel on the unit sphere (method, step 2)."""

import torch
from torch import Tensor


def norm_floor(dtype: torch.dtype) -> float:
    """The norm at or below which a vector counts as zero.

    Its direction would be rounding noise, and the gradient of the direction, which
    grows like one over the norm, would leave the range of the dtype.
    """
    return max(torch.finfo(dtype).tiny, 1e-30)


def unit_vectors(v: Tensor, floor: float | None = None) -> tuple[Tensor, Tensor]:
    """Split vectors into direction and length without overflow or underflow.

    Args:
        v (Tensor): Of shape ``(..., D)``, float32 or float64.
        floor (float, optional): See :func:`norm_floor`, whose value for ``v``'s dtype
            is the default. Vectors no longer than this get the direction 0 (and so a
            kernel value of ``exp(-alpha)`` against everything), the length 0 and the
            gradient 0. NaN stays NaN.

    Returns:
        tuple[Tensor, Tensor]: Directions ``(..., D)`` and lengths ``(..., 1)``.
    """
    if floor is None:
        floor = norm_floor(v.dtype)
    # Squares of representable norms need not be representable: scale by the largest
    # component first.
    peak = v.detach().abs().amax(-1, keepdim=True)
    peak = torch.where(peak > 0, peak, torch.ones_like(peak))
    length = peak * torch.linalg.vector_norm(v / peak, dim=-1, keepdim=True)
    is_zero = length <= floor
    direction = (v / length.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)
    return direction, length.masked_fill(is_zero, 0)


def gaussian_kernel(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """``exp(-alpha/2 |a - b|^2) = exp(alpha (<a, b> - 1))`` for unit vectors.

    Args:
        a (Tensor): Unit vectors of shape ``(..., n, D)``.
        b (Tensor): Unit vectors of shape ``(..., m, D)``.
        alpha (float): Inverse squared bandwidth, positive.

    Returns:
        Tensor: Of shape ``(..., n, m)``, in ``[exp(-2 alpha), 1]`` up to rounding.
    """
    return torch.exp(alpha * (a @ b.transpose(-2, -1) - 1))
