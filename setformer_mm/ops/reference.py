"""SeT attention in plain PyTorch: the ground truth that every kernel must agree with.

It reads as the mathematics of docs/method.md, runs on any device in float32 or float64,
for any epsilon and tau, and is differentiable. Shapes: ``B`` images, ``N`` tokens,
``h`` heads of ``D`` channels, ``K`` anchors and ``M`` references a head for each way.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .autocast import without_autocast
from .fold import Folded
from .kernel import gaussian_kernel, norm_floor, unit_vectors
from .positions import Shape2d, position_exponents
from .valid import has_values


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
    if valid is not None:
        attend = partial(
            set_attention_reference,
            folded=folded,
            reference_shape=reference_shape,
            epsilon=epsilon,
            num_iters=num_iters,
            tau=tau,
        )
        return _attend_to_crops(attend, x, folded, spatial_shape, valid)
    with without_autocast(x):
        folded = folded.to(_compute_dtype(x))
        features, lengths = _kernel_features(x, folded)
        log_in, log_back = (
            _log_plan(scores, epsilon, num_iters)
            for scores in (features @ folded.score_maps).chunk(2, -1)
        )
        if tau is not None:
            rows, cols = position_exponents(
                spatial_shape, reference_shape, *log_in.shape[-2:], tau, like=features
            )
            log_in = _add_over_grid(log_in, rows, cols)
            log_back = _add_over_grid(log_back, rows, cols)

        # Lengths are taken relative to the largest of the head, so that sums of values
        # stay in range whenever each length does.
        unit = lengths.detach().amax(-2, keepdim=True)
        unit = unit.clamp_min(norm_floor(unit.dtype))
        values = (lengths / unit) * (features - math.exp(-folded.alpha))

        # Over the last dimension: over another one, torch adds up all tokens in turn.
        aggregates = log_in.mT.softmax(-1) @ values
        out = log_back.softmax(-1) @ (aggregates @ folded.value_map)
        return (out * unit).transpose(1, 2).to(x.dtype)


def _attend_to_crops(
    attend: Callable[..., Tensor],
    x: Tensor,
    folded: Folded,
    spatial_shape: Shape2d | None,
    valid: Tensor,
) -> Tensor:
    """Crop each image, attend to it by itself, and pad with zeros.

    Where there are no values, and in a graph of torch.jit, which takes no other sizes
    than those it has seen, nothing is cropped.
    """
    is_exporting = getattr(torch.compiler, "is_exporting", None)  # torch >= 2.7
    if is_exporting and is_exporting():
        raise ValueError(
            "a graph cannot crop images to sizes that it computes: export a backbone "
            "with padding='ignore', or with the compiled operator"
        )
    if torch.jit.is_tracing():
        warnings.warn(
            "the traced graph of the reference takes padding for picture", stacklevel=2
        )
    if torch.jit.is_tracing() or not has_values(valid):
        return attend(x, spatial_shape=spatial_shape)
    height, width = spatial_shape or (x.shape[1], 1)
    # What nothing is made of: gradients are 0 then, and not missing.
    nothing = sum(t[:0].sum() for t in (x, *folded[:3])).to(x.dtype)
    outs = [nothing + x.new_zeros(0, *x.shape[1:3], folded.anchors.shape[1])]
    for image, (rows, cols) in zip(x.split(1), valid.tolist()):
        rows, cols = max(0, min(rows, height)), max(0, min(cols, width))
        crop = image.unflatten(1, (height, width))[:, :rows, :cols]
        if rows and cols:
            shape = (rows, cols) if spatial_shape else None
            out = attend(crop.flatten(1, 2), spatial_shape=shape)
        else:
            out = nothing + outs[0].new_zeros(1, 0, *outs[0].shape[2:])
        out = out.unflatten(1, (rows, cols))
        padding = (0, 0, 0, 0, 0, width - cols, 0, height - rows)
        outs.append(F.pad(out, padding).flatten(1, 2))
    return torch.cat(outs)


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
        folded = folded.to(_compute_dtype(x))
        features, _ = _kernel_features(x, folded)
        score_map = folded.score_maps.chunk(2, -1)[way == "back"]
        return _log_plan(features @ score_map, epsilon, num_iters).exp()


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


def _log_plan(scores: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """The logarithm of the plan after Sinkhorn's iterations from ``b = 1``.

    It ends on the rows, whose sums are then ``1 / N`` exactly. ``f`` and ``g`` are the
    logarithms of ``a`` and ``b``: for any epsilon, neither they nor their gradients
    leave the range of float32.
    """
    # Of tensors, because symbols of torch.export have no logarithm.
    log_n, log_m = (scores.new_full((), size).log() for size in scores.shape[-2:])
    # What a row has in common goes into f; taken off first, it costs no digits.
    log_kernel = (scores - scores.detach().amax(-1, keepdim=True)) / epsilon
    g = torch.zeros_like(log_kernel[..., :1, :])
    for _ in range(num_iters):
        f = -log_n - torch.logsumexp(log_kernel + g, -1, keepdim=True)
        g = -log_m - torch.logsumexp(log_kernel + f, -2, keepdim=True)
    f = -log_n - torch.logsumexp(log_kernel + g, -1, keepdim=True)
    return log_kernel + f + g


def _add_over_grid(matrix: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Add ``(H_t, M)`` and ``(W_t, M)`` to ``(..., N, M)``."""
    grid = matrix.unflatten(-2, (rows.shape[0], cols.shape[0]))
    return (grid + rows[:, None] + cols).flatten(-3, -2)
