"""What SeT attention is measured against: itself in eager PyTorch, and other attention.

Shapes: ``B`` images of ``N`` tokens, ``h`` heads of ``D`` channels, ``K`` anchors and
``M`` references a head.
"""

import math

import torch
from torch import Tensor
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
    score_maps: Tensor,
    value_map: Tensor,
    weights: Tensor,
    alpha: float,
    epsilon: float,
    num_iters: int,
) -> Tensor:
    """SeT attention as fast as we can write it with PyTorch's operators.

    The scaling form for ordinary inputs: no token may be zero, and no reference so far
    from all tokens that its scores fall short of the best ones by many epsilon. Every
    factor that cancels is left out (1/N and 1/M, the last ``b`` on the way in and the
    last ``a`` on the way back), other constants are multiplied into the small maps, all
    heads of all images are one batch, and vectors multiply matrices from the left:
    ``bmm`` is up to 16 times slower with a matrix of one column than with one of one
    row.

    Args:
        x (Tensor): Tokens ``(B, N, h, D)``.
        anchors, score_maps, value_map (Tensor): See :class:`setformer_mm.ops.Folded`.
        weights (Tensor): What :func:`position_weights` returned.
        alpha, epsilon, num_iters: See :func:`setformer_mm.ops.set_attention`.

    Returns:
        Tensor: A view of shape ``(B, N, h, K)``, not contiguous.
    """
    images = len(x)
    scale = math.exp(-alpha)
    tokens = _by_head(x, anchors)
    length = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    features = (torch.bmm(tokens, alpha * anchors.mT) / length).exp()
    scores = torch.bmm(features, scale / epsilon * score_maps)
    length, features, scores = (
        _by_problem(t, images) for t in (length, features, scores)
    )
    kernels, scalings = [], []
    for part in scores.chunk(2, -1):
        kernel = (part - part.detach().amax(-1, keepdim=True)).exp()
        b = kernel.new_ones(len(kernel), 1, kernel.shape[-1])
        for _ in range(num_iters):
            a = torch.bmm(b, kernel.mT).reciprocal()
            b = torch.bmm(a, kernel).reciprocal()
        kernels.append(kernel)
        scalings.append(b)
    a = torch.bmm(scalings[0], kernels[0].mT).reciprocal()
    way_in = kernels[0] * weights * a.mT
    aggregates = torch.bmm(way_in.mT, (features - 1) * length)
    aggregates = aggregates / way_in.sum(1).unsqueeze(-1)
    embedded = torch.bmm(_heads_apart(aggregates, x.shape[2]), scale * value_map)
    way_back = kernels[1] * weights
    to_tokens = embedded.view_as(aggregates) * scalings[1].mT
    out = torch.bmm(way_back, to_tokens) / torch.bmm(scalings[1], way_back.mT).mT
    return _by_token(out, x)


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
