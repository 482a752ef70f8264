"""What SeT attention is measured against: itself in eager PyTorch, and other attention.

Shapes: ``B`` images of ``N`` tokens, ``h`` heads of ``D`` channels, ``K`` anchors and
``M`` references a head.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from setformer_mm.ops.positions import Shape2d, position_exponents


def position_weights(
    spatial_shape: Shape2d, reference_shape: Shape2d, tau: float, like: Tensor
) -> Tensor:
    """The position weights of an image as one matrix ``(N, M)``, to be kept."""
    counts = math.prod(spatial_shape), math.prod(reference_shape)
    rows, cols = position_exponents(
        spatial_shape, reference_shape, *counts, tau, like=like
    )
    return (rows.exp()[:, None] * cols.exp()).flatten(0, 1)


def eager_attention(
    x: Tensor,
    anchors: Tensor,
    score_map: Tensor,
    value_map: Tensor,
    weights: Tensor,
    alpha: float,
    epsilon: float,
    num_iters: int,
) -> Tensor:
    """SeT attention as fast as we can write it with PyTorch's operators.

    The scaling form for ordinary inputs: no token may be zero, and epsilon must not be
    below 0.05. Every factor that cancels is left out (the 1 in
    ``exp((S - 1) / epsilon)``, 1/N and 1/M, ``b`` in the columns and ``a`` in the rows
    of the plan), other constants are multiplied into the small maps, all heads of all
    images are one batch, and vectors multiply matrices from the left: ``bmm`` is up to
    16 times slower with a matrix of one column than with one of one row. Without
    gradients everything of size ``N x M`` and ``N x K`` is overwritten in place.

    Args:
        x (Tensor): Tokens ``(B, N, h, D)``.
        anchors, score_map, value_map (Tensor): See :class:`setformer_mm.ops.Folded`.
        weights (Tensor): What :func:`position_weights` returned.
        alpha, epsilon, num_iters: See :func:`setformer_mm.ops.set_attention`.

    Returns:
        Tensor: A view of shape ``(B, N, h, K)``, not contiguous.
    """
    maps = _scaled_maps(anchors, score_map, value_map, alpha, epsilon)
    overwrite = not torch.is_grad_enabled()
    out = _scaling_form(_by_head(x, anchors), maps, weights, num_iters, overwrite).out
    return _by_token(out, x)


class EagerAttention(torch.autograd.Function):
    """:func:`eager_attention` with a backward pass written by hand, for its arguments.

    What autograd adds to the gradient of the kernel matrix one product of two vectors
    at a time, ``2 L + 3`` matrices of size ``N x M``, is one product of matrices here.
    """

    @staticmethod
    def forward(
        ctx, x, anchors, score_map, value_map, weights, alpha, epsilon, num_iters
    ):
        maps = _scaled_maps(anchors, score_map, value_map, alpha, epsilon)
        tokens = _by_head(x, anchors)
        steps = _scaling_form(tokens, maps, weights, num_iters, overwrite=False)
        ctx.save_for_backward(x, anchors, weights)
        ctx.fields = alpha, epsilon
        ctx.maps, ctx.steps = maps, steps
        return _by_token(steps.out, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, anchors, weights = ctx.saved_tensors
        alpha, epsilon = ctx.fields
        anchor_map, score_map, value_map = ctx.maps
        s = ctx.steps
        heads = x.shape[2]
        a, b = s.a, s.b

        # out = plan (b embedded) / (plan b)
        grad_out = _by_problem(_by_head(grad_out, anchors), len(x)) / s.row_sums
        grad_row_sums = -torch.linalg.vecdot(grad_out, s.out).unsqueeze(1)
        grad_plan = torch.bmm(grad_out, (s.embedded * b[-1].mT).mT)
        grad_embedded = torch.bmm(s.plan.mT, grad_out)
        grad_b = torch.linalg.vecdot(grad_embedded, s.embedded).unsqueeze(1)
        grad_b += torch.bmm(grad_row_sums, s.plan)

        # embedded = aggregates value_map; aggregates = plan^T values / (plan^T a)
        grad_embedded = _heads_apart(grad_embedded.mul_(b[-1].mT), heads)
        grad_value_map = torch.bmm(_heads_apart(s.aggregates, heads).mT, grad_embedded)
        grad_sums = torch.bmm(grad_embedded, value_map.mT).view_as(s.aggregates)
        grad_sums = grad_sums.div_(s.col_sums)
        grad_col_sums = -torch.linalg.vecdot(grad_sums, s.aggregates).unsqueeze(1)
        grad_plan.baddbmm_(s.values, grad_sums.mT)
        grad_plan.baddbmm_(
            torch.cat((grad_row_sums, a[-1]), 1).mT,
            torch.cat((b[-1], grad_col_sums), 1),
        )

        # values = a length features
        grad_features = torch.bmm(s.plan, grad_sums)
        grad_values = torch.linalg.vecdot(grad_features, s.features).unsqueeze(1)
        grad_length = grad_values * a[-1]
        grad_a = grad_values * s.length.mT + torch.bmm(grad_col_sums, s.plan.mT)
        grad_features.mul_(a[-1].mT * s.length)

        # a = 1 / (kernel b), b = 1 / (kernel^T a), backwards
        left, right = [], []
        for i in reversed(range(len(a))):
            grad_a = -grad_a * a[i] ** 2
            left.append(grad_a)
            right.append(b[i])
            if i:
                grad_b = grad_b + torch.bmm(grad_a, s.kernel)
                grad_b = -grad_b * b[i] ** 2
                left.append(a[i - 1])
                right.append(grad_b)
                grad_a = torch.bmm(grad_b, s.kernel.mT)
                grad_b = 0

        # plan = kernel weights; kernel = exp(features score_map)
        grad_scores = grad_plan.mul_(weights)
        grad_scores.baddbmm_(torch.cat(left, 1).mT, torch.cat(right, 1)).mul_(s.kernel)
        grad_scores = _heads_apart(grad_scores, heads)
        features = _heads_apart(s.features, heads)
        grad_features = _heads_apart(grad_features, heads)
        grad_score_map = torch.bmm(features.mT, grad_scores)
        grad_features.baddbmm_(grad_scores, score_map.mT)

        # features = exp(x anchor_map / length), length = |x|
        length = _heads_apart(s.length, heads)
        tokens = _by_head(x, anchors)
        grad_dots = grad_features.mul_(features).div_(length)
        grad_anchor_map = torch.bmm(tokens.mT, grad_dots)
        grad_x = torch.bmm(grad_dots, anchor_map.mT)
        along_x = torch.linalg.vecdot(grad_x, tokens).unsqueeze(-1) / length
        along_x = _heads_apart(grad_length.mT, heads) - along_x
        grad_x.addcmul_(tokens, along_x / length)

        scale = math.exp(-alpha)
        return (
            _by_token(_by_problem(grad_x, len(x)), x),
            alpha * grad_anchor_map.mT,
            scale / epsilon * grad_score_map,
            scale * grad_value_map,
            *(None,) * 4,
        )


class _Steps(NamedTuple):
    """What the scaling form computes, of ``h B`` problems each."""

    length: Tensor  # (h B, N, 1)
    features: Tensor  # (h B, N, K)
    kernel: Tensor  # (h B, N, M)
    a: list[Tensor]  # (h B, 1, N) each
    b: list[Tensor]  # (h B, 1, M) each
    plan: Tensor  # (h B, N, M), lacks a and b
    values: Tensor  # (h B, N, K), with a
    col_sums: Tensor  # (h B, M, 1)
    aggregates: Tensor  # (h B, M, K)
    embedded: Tensor  # (h B, M, K)
    row_sums: Tensor  # (h B, N, 1)
    out: Tensor  # (h B, N, K)


def _scaled_maps(
    anchors: Tensor, score_map: Tensor, value_map: Tensor, alpha: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps with all constants: features become ``exp(alpha <x, z> / |x|)``."""
    scale = math.exp(-alpha)
    return alpha * anchors.mT, scale / epsilon * score_map, scale * value_map


def _scaling_form(
    tokens: Tensor,
    maps: tuple[Tensor, Tensor, Tensor],
    weights: Tensor,
    num_iters: int,
    overwrite: bool,
) -> _Steps:
    """From tokens ``(h, B N, D)`` to everything that a backward pass needs.

    With ``overwrite`` in fewer buffers, and only ``out`` is what its name says.
    """
    anchor_map, score_map, value_map = maps
    heads, images = len(tokens), tokens.shape[1] // len(weights)
    mul = Tensor.mul_ if overwrite else Tensor.mul

    length = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    features = mul(torch.bmm(tokens, anchor_map), 1 / length).exp_()
    kernel = torch.bmm(features, score_map).exp_()
    length = _by_problem(length, images)
    features = _by_problem(features, images)
    kernel = _by_problem(kernel, images)

    a, b = [], [kernel.new_ones(len(kernel), 1, kernel.shape[-1])]
    for _ in range(num_iters):
        a.append(torch.bmm(b[-1], kernel.mT).reciprocal_())
        b.append(torch.bmm(a[-1], kernel).reciprocal_())
    a.append(torch.bmm(b[-1], kernel.mT).reciprocal_())

    plan = mul(kernel, weights)
    values = mul(features, a[-1].mT * length)
    col_sums = torch.bmm(a[-1], plan).mT
    aggregates = torch.bmm(plan.mT, values) / col_sums
    embedded = torch.bmm(_heads_apart(aggregates, heads), value_map)
    embedded = embedded.view_as(aggregates)
    row_sums = torch.bmm(b[-1], plan.mT).mT
    to_references = embedded * b[-1].mT
    if overwrite:
        out = torch.bmm(plan, to_references, out=values).div_(row_sums)
    else:
        out = torch.bmm(plan, to_references) / row_sums
    return _Steps(
        length,
        features,
        kernel,
        a,
        b,
        plan,
        values,
        col_sums,
        aggregates,
        embedded,
        row_sums,
        out,
    )


def _by_head(x: Tensor, like: Tensor) -> Tensor:
    """``(B, N, h, D)`` to ``(h, B N, D)``, a view unless the dtype changes."""
    return x.to(like.dtype).flatten(0, 1).transpose(0, 1)


def _by_problem(matrices: Tensor, images: int) -> Tensor:
    """``(h, B N, .)`` to ``(h B, N, .)``."""
    return matrices.unflatten(1, (images, -1)).flatten(0, 1)


def _heads_apart(matrices: Tensor, heads: int) -> Tensor:
    """``(h B, N, .)`` to ``(h, B N, .)``."""
    return matrices.unflatten(0, (heads, -1)).flatten(1, 2)


def _by_token(matrices: Tensor, x: Tensor) -> Tensor:
    """``(h B, N, .)`` to a view ``(B, N, h, .)`` in x's dtype."""
    heads = x.shape[2]
    return matrices.unflatten(0, (heads, -1)).permute(1, 2, 0, 3).to(x.dtype)


def agent_attention(
    q: Tensor, k: Tensor, v: Tensor, spatial_shape: Shape2d, agent_shape: Shape2d
) -> Tensor:
    """Softmax attention through agents that are pooled from the queries.

    Agent attention (Han et al., ECCV 2024, arXiv 2312.08874) without its position
    biases and without the depth-wise convolution of the values. Not imported from
    :mod:`setformer_mm.models.mixers`, which has the same: that needs mmengine.

    Args:
        q, k, v (Tensor): Of shape ``(B, h, N, D)``.
        spatial_shape (tuple[int, int]): Token grid.
        agent_shape (tuple[int, int]): Grid of agents, ``M`` in all.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    grid = q.mT.flatten(0, 1).unflatten(-1, spatial_shape)
    agents = F.adaptive_avg_pool2d(grid, agent_shape).flatten(2).mT
    agents = agents.unflatten(0, q.shape[:2])
    collected = F.scaled_dot_product_attention(agents, k, v)
    return F.scaled_dot_product_attention(q, agents, collected)


def pot_plan(scores: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """The transport plan of given scores by POT's batched Sinkhorn, without positions.

    Its iterations end on the columns, so it gets one more to reach the last rows.

    Args:
        scores (Tensor): Of shape ``(problems, N, M)``.
        epsilon, num_iters: See :func:`setformer_mm.ops.set_attention`.

    Returns:
        Tensor: Of shape ``(problems, N, M)``.
    """
    from ot.batch import bregman_projection_batch

    problems, n, m = scores.shape
    return bregman_projection_batch(
        torch.exp((scores - 1) / epsilon),
        scores.new_full((problems, n), 1 / n),
        scores.new_full((problems, m), 1 / m),
        max_iter=num_iters + 1,
        tol=0,
        grad="autodiff",
    )["T"]
