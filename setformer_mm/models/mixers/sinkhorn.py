"""Sinkhorn's algorithm on logarithms, which the mixers by transport share."""

import torch
from torch import Tensor


def transport_plan(
    scores: Tensor,
    log_rows: Tensor | float,
    log_columns: Tensor | float,
    num_steps: int,
) -> Tensor:
    """Scale ``exp(scores)`` towards given sums of its rows and its columns, in turn.

    Rows come first, so that an odd number of steps leaves the rows exact and the
    columns nearly so. One step is a softmax.

    Args:
        scores (Tensor): Negative costs over the regularisation, ``(..., n, m)``.
        log_rows (Tensor | float): Logarithms of the sums of rows, of a shape that
            expands to ``(..., n, 1)``.
        log_columns (Tensor | float): Those of columns, ``(..., 1, m)``.
        num_steps (int): Scalings; each is of rows or of columns.

    Returns:
        Tensor: The plan, ``(..., n, m)``.
    """
    for step in range(num_steps):
        if step % 2 == 0:
            scores = scores - scores.logsumexp(-1, keepdim=True) + log_rows
        else:
            scores = scores - scores.logsumexp(-2, keepdim=True) + log_columns
    return torch.exp(scores)


def require_odd(num_steps: int) -> None:
    """Refuse steps that would not end with the rows."""
    if num_steps < 1 or num_steps % 2 == 0:
        raise ValueError(f"num_steps must be odd and positive, got {num_steps}")
