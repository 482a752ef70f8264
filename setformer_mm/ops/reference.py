"""SeT attention in plain PyTorch: the ground truth that every kernel must agree with.

It reads as the mathematics of docs/method.md, runs on any device in float32 or float64,
and is differentiable. Shapes: ``B`` images, ``N`` tokens, ``h`` heads of ``D``
channels, ``K`` anchors and ``M`` references a head.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .fold import Folded
from .kernel import gaussian_kernel, norm_floor, unit_vectors
from .positions import Shape2d, position_exponents, smallest_best_exponent

# Below this epsilon the scaling form's gradients leave the range of float32.
MIN_SCALING_EPSILON = 0.05
# A token or reference whose best position weight is below exp(-10) is left to the log
# domain: its products with small entries of the plan could underflow.
MIN_SCALING_EXPONENT = -10.0


def set_attention_reference(
    x: Tensor,
    folded: Folded,
    *,
    spatial_shape: Shape2d | None,
    reference_shape: Shape2d | None,
    epsilon: float,
    num_iters: int,
    tau: float | None,
) -> Tensor:
    """The operator over tokens and folded parameters (method, steps 2 to 8).

    Arguments are those of :func:`setformer_mm.ops.set_attention_folded`, already
    checked.

    Returns:
        Tensor: Of shape ``(B, N, h, K)`` in x's dtype.
    """
    with torch.autocast(x.device.type, enabled=False):
        folded = folded.to(_compute_dtype(x))
        features, lengths = _kernel_features(x, folded)
        scores = features @ folded.score_map
        num_tokens, num_references = map(int, scores.shape[-2:])
        geometry = spatial_shape, reference_shape, num_tokens, num_references
        if tau is not None:
            rows, cols = position_exponents(*geometry, tau, like=scores)

        # val_i = |x_i| k(z, x_i). Lengths are taken relative to the largest of the
        # head, so that sums of values stay in range whenever each length does.
        unit = lengths.detach().amax(-2, keepdim=True)
        unit = unit.clamp_min(norm_floor(unit.dtype))
        values = (lengths / unit) * features

        if scaling_form_is_safe(epsilon, tau, geometry):
            weights = _sinkhorn_scaling(scores, epsilon, num_iters)
            if tau is not None:
                weights = _over_grid(torch.mul, weights, rows.exp(), cols.exp())
            aggregates = weights.mT @ values / weights.sum(-2).unsqueeze(-1)
            row_sums = weights.sum(-1, keepdim=True)
            out = weights @ (aggregates @ folded.value_map) / row_sums
        else:
            log_weights = _sinkhorn_log(scores, epsilon, num_iters)
            if tau is not None:
                log_weights = _over_grid(torch.add, log_weights, rows, cols)
            aggregates = log_weights.softmax(-2).mT @ values
            out = log_weights.softmax(-1) @ (aggregates @ folded.value_map)
        return (out * unit).transpose(1, 2).to(x.dtype)


def transport_plan_reference(
    x: Tensor, folded: Folded, *, epsilon: float, num_iters: int
) -> Tensor:
    """The transport plan before position weights (method, steps 2 to 5).

    Args:
        x (Tensor): Tokens of shape ``(B, N, h, D)``.
        folded (Folded): See :func:`setformer_mm.ops.fold`.
        epsilon (float): Entropic regularisation, positive.
        num_iters (int): Sinkhorn iterations, at least 0.

    Returns:
        Tensor: Of shape ``(B, h, N, M)``, float32 or, for float64 tokens, float64.
    """
    with torch.autocast(x.device.type, enabled=False):
        folded = folded.to(_compute_dtype(x))
        features, _ = _kernel_features(x, folded)
        scores = features @ folded.score_map
        if epsilon >= MIN_SCALING_EPSILON:
            return _sinkhorn_scaling(scores, epsilon, num_iters)
        return _sinkhorn_log(scores, epsilon, num_iters).exp()


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _kernel_features(x: Tensor, folded: Folded) -> tuple[Tensor, Tensor]:
    """``k(x, z)`` of shape ``(B, h, N, K)`` and the lengths ``|x|`` of shape
    ``(B, h, N, 1)``, in the dtype of the folded maps.
    """
    directions, lengths = unit_vectors(
        x.transpose(1, 2).to(folded.anchors.dtype), norm_floor(x.dtype)
    )
    return gaussian_kernel(directions, folded.anchors, folded.alpha), lengths


def _over_grid(
    combine: Callable[[Tensor, Tensor], Tensor],
    matrix: Tensor,
    rows: Tensor,
    cols: Tensor,
) -> Tensor:
    """Combine ``(..., N, M)`` with factors ``(H_t, M)`` and ``(W_t, M)``."""
    grid = matrix.unflatten(-2, (len(rows), len(cols)))
    return combine(combine(grid, rows[:, None]), cols).flatten(-3, -2)


def scaling_form_is_safe(epsilon: float, tau: float | None, geometry: tuple) -> bool:
    """Whether the scaling form stays in the range of float32, gradients included.

    Args:
        epsilon (float): Entropic regularisation.
        tau (float, optional): Width of the position weights.
        geometry (tuple): First four arguments of :func:`position_exponents`.
    """
    if epsilon < MIN_SCALING_EPSILON:
        return False
    return tau is None or smallest_best_exponent(*geometry, tau) >= MIN_SCALING_EXPONENT


def _sinkhorn_scaling(scores: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """Sinkhorn's algorithm on ``exp((S - 1) / epsilon)``, which lies in
    ``[exp(-2 / epsilon), 1]``; ends on the rows, which then sum to ``1 / N`` exactly.

    ``a`` and ``b`` are rows: batched products with a column are several times slower.
    """
    n, m = scores.shape[-2:]
    kernel = torch.exp((scores - 1) / epsilon)
    b = torch.ones_like(kernel[..., :1, :])
    for _ in range(num_iters):
        a = (1 / n) / (b @ kernel.mT)
        b = (1 / m) / (a @ kernel)
    a = (1 / n) / (b @ kernel.mT)
    return a.mT * kernel * b


def _sinkhorn_log(scores: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """The same iterations on logarithms; returns the logarithm of the plan."""
    n, m = scores.shape[-2:]
    log_kernel = (scores - 1) / epsilon
    log_n, log_m = math.log(n), math.log(m)
    g = torch.zeros_like(log_kernel[..., :1, :])
    for _ in range(num_iters):
        f = -log_n - torch.logsumexp(log_kernel + g, -1, keepdim=True)
        g = -log_m - torch.logsumexp(log_kernel + f, -2, keepdim=True)
    f = -log_n - torch.logsumexp(log_kernel + g, -1, keepdim=True)
    return log_kernel + f + g
