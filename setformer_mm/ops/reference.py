"""SeT attention in plain PyTorch: the ground truth that every kernel must agree with.

It reads as the mathematics of docs/method.md, runs on any device in float32 or float64,
for any epsilon and tau, and is differentiable. Shapes: ``B`` images, ``N`` tokens,
``h`` heads of ``D`` channels, ``K`` anchors and ``M`` references a head for each way.
"""

import math

import torch
from torch import Tensor

from .autocast import without_autocast
from .fold import Folded
from .kernel import gaussian_kernel, norm_floor, unit_vectors
from .positions import Shape2d, position_exponents
from .valid import inside

# As a logarithm, of the mass of a token that takes no part. Infinity would become NaN
# where no token does.
_NO_MASS = -1e30


def set_attention_reference(
    x: Tensor,
    folded: Folded,
    *,
    spatial_shape: Shape2d | None,
    reference_shape: Shape2d | None,
    epsilon: float,
    num_iters: int,
    tau: float | None,
    valid: Tensor | None = None,
) -> Tensor:
    """The operator over tokens and folded parameters (method, steps 2 to 8).

    Arguments are those of :func:`setformer_mm.ops.set_attention_folded`, already
    checked, and valid rows and columns of each image, of shape ``(B, 2)``; those of a
    sequence are its length and 1.

    Returns:
        Tensor: Of shape ``(B, N, h, K)`` in x's dtype.
    """
    is_token, counts = None, None
    if valid is not None:
        rows, cols = inside(valid, spatial_shape or (x.shape[1], 1))
        is_token = (rows.unsqueeze(2) & cols.unsqueeze(1)).flatten(1)[:, None, :, None]
        counts = tuple(axis.sum(1, keepdim=True).clamp_min(1) for axis in (rows, cols))
        x = x.masked_fill(~is_token.transpose(1, 2), 0)
    with without_autocast(x):
        folded = folded.to(compute_dtype(x))
        features, lengths = kernel_features(x, folded)
        log_in, log_back = (
            log_plan(scores, epsilon, num_iters, is_token)
            for scores in (features @ folded.score_maps).chunk(2, -1)
        )
        if tau is not None:
            rows, cols = position_exponents(
                spatial_shape,
                reference_shape,
                *log_in.shape[-2:],
                tau,
                like=features,
                valid=counts,
            )
            log_in = add_over_grid(log_in, rows, cols)
            log_back = add_over_grid(log_back, rows, cols)

        # Lengths are taken relative to the largest of the head, so that sums of values
        # stay in range whenever each length does.
        unit = lengths.detach().amax(-2, keepdim=True)
        unit = unit.clamp_min(norm_floor(unit.dtype))
        values = (lengths / unit) * (features - math.exp(-folded.alpha))

        # Over the last dimension: over another one, torch adds up all tokens in turn.
        aggregates = log_in.transpose(-2, -1).softmax(-1) @ values
        out = log_back.softmax(-1) @ (aggregates @ folded.value_map) * unit
        if is_token is not None:
            out = out.masked_fill(~is_token, 0)
        return out.transpose(1, 2).to(x.dtype)


def transport_plan_reference(
    x: Tensor, folded: Folded, *, way: str, epsilon: float, num_iters: int
) -> Tensor:
    """The transport plan before position weights (method, steps 2 to 5).

    Args:
        x (Tensor): Tokens of shape ``(B, N, h, D)``.
        folded (Folded): See :func:`setformer_mm.ops.fold`.
        way (str): "in" or "back".
        epsilon (float): Entropic regularisation, positive.
        num_iters (int): Sinkhorn iterations, at least 0.

    Returns:
        Tensor: Of shape ``(B, h, N, M)``, float32 or, for float64 tokens, float64.
    """
    with without_autocast(x):
        folded = folded.to(compute_dtype(x))
        features, _ = kernel_features(x, folded)
        score_map = folded.score_maps.chunk(2, -1)[way == "back"]
        return log_plan(features @ score_map, epsilon, num_iters).exp()


def compute_dtype(x: Tensor) -> torch.dtype:
    """At least float32, whatever the tokens are."""
    return torch.promote_types(x.dtype, torch.float32)


def kernel_features(x: Tensor, folded: Folded) -> tuple[Tensor, Tensor]:
    """``k(x, z)`` of shape ``(B, h, N, K)`` and the lengths ``|x|`` of shape
    ``(B, h, N, 1)``, in the dtype of the folded maps.
    """
    directions, lengths = unit_vectors(
        x.transpose(1, 2).to(folded.anchors.dtype), norm_floor(x.dtype)
    )
    return gaussian_kernel(directions, folded.anchors, folded.alpha), lengths


def log_plan(
    scores: Tensor, epsilon: float, num_iters: int, is_token: Tensor | None = None
) -> Tensor:
    """The logarithm of the plan after Sinkhorn's iterations from ``b = 1``.

    It ends on the rows, whose sums are then ``1 / N`` exactly. ``f`` and ``g`` are the
    logarithms of ``a`` and ``b``: for any epsilon, neither they nor their gradients
    leave the range of float32. Tokens that take no part, where ``is_token`` of shape
    ``(B, 1, N, 1)`` is False, have no mass and do not count for ``N``.
    """
    # Counted, because symbols of torch.export have no logarithm.
    counted = torch.ones_like(scores[..., :1]) if is_token is None else is_token
    log_n = counted.sum(-2, keepdim=True, dtype=scores.dtype).clamp_min(1).log()
    log_m = math.log(scores.shape[-1])
    # What a row has in common goes into f; taken off first, it costs no digits.
    log_kernel = (scores - scores.detach().amax(-1, keepdim=True)) / epsilon

    def rows_from(g: Tensor) -> Tensor:
        f = -log_n - torch.logsumexp(log_kernel + g, -1, keepdim=True)
        return f if is_token is None else f.masked_fill(~is_token, _NO_MASS)

    g = torch.zeros_like(log_kernel[..., :1, :])
    for _ in range(num_iters):
        g = -log_m - torch.logsumexp(log_kernel + rows_from(g), -2, keepdim=True)
    return log_kernel + rows_from(g) + g


def add_over_grid(matrix: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Add ``(H_t, M)`` and ``(W_t, M)``, or one an image, to ``(B, h, N, M)``."""
    grid = matrix.unflatten(-2, (rows.shape[-2], cols.shape[-2]))
    rows, cols = (t.unsqueeze(1) if t.dim() == 3 else t for t in (rows, cols))
    return (grid + rows.unsqueeze(-2) + cols.unsqueeze(-3)).flatten(-3, -2)
