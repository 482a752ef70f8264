"""Multiply-adds of models that contain SeT attention.

Counters see the matrix products that an implementation of the operator happens to run:
fewer on logarithms than in the scaling form, none inside a compiled kernel. Here the
operator counts by its formula, whichever backend runs, and everything else by torch's
own counter.
"""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models import SeTAttention


def set_attention_multiply_adds(
    num_tokens: int,
    num_heads: int,
    head_dim: int,
    num_anchors: int,
    num_references: int,
    num_iters: int,
) -> int:
    """Multiply-adds of SeT attention, without projections, for one image.

    A head costs ``N (D K + 3 K M + (2 L + 1) M)`` for kernel features, scores, the
    aggregation onto the references, the way back and Sinkhorn's products, ``M K^2`` for
    the embedding of the aggregates, and ``2 K^2 M`` for the fold.

    Args:
        num_tokens (int): ``N``.
        num_heads (int): ``h``.
        head_dim (int): ``D``.
        num_anchors (int): ``K``.
        num_references (int): ``M``.
        num_iters (int): ``L``.

    Returns:
        int: Multiply-adds over all heads.
    """
    n, d, k, m = num_tokens, head_dim, num_anchors, num_references
    by_token = d * k + 3 * k * m + (2 * num_iters + 1) * m
    return num_heads * (n * by_token + m * k**2 + 2 * k**2 * m)


@torch.no_grad()
def count_multiply_adds(model: nn.Module, *inputs: Tensor) -> int:
    """Count the multiply-adds of ``model(*inputs)``.

    Args:
        model (nn.Module): Any model; :class:`SeTAttention` inside it counts by
            :func:`set_attention_multiply_adds`, convolutions, linear layers and other
            matrix products as torch's ``FlopCounterMode`` sees them (which reports two
            operations a multiply-add).
        *inputs (Tensor): Arguments of the forward pass.

    Returns:
        int: Multiply-adds of the whole batch.
    """
    counter = FlopCounterMode(display=False)
    # The operator runs between the end of in_proj and the start of out_proj.
    seen_in_operator = 0
    by_formula = 0
    handles = []

    def watch(attention: SeTAttention) -> None:
        def operator_starts(module: nn.Module, args: tuple, tokens: Tensor) -> None:
            nonlocal seen_in_operator, by_formula
            seen_in_operator -= counter.get_total_flops()
            images = tokens.shape[0]
            by_formula += images * set_attention_multiply_adds(
                tokens.shape[1:-1].numel(),
                *attention.anchors.shape[::2],
                attention.anchors.shape[1],
                attention.references.shape[1],
                attention.num_iters,
            )

        def operator_ends(module: nn.Module, args: tuple) -> None:
            nonlocal seen_in_operator
            seen_in_operator += counter.get_total_flops()

        handles.append(attention.in_proj.register_forward_hook(operator_starts))
        handles.append(attention.out_proj.register_forward_pre_hook(operator_ends))

    for module in model.modules():
        if isinstance(module, SeTAttention):
            watch(module)
    try:
        with counter:
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return (counter.get_total_flops() - seen_in_operator) // 2 + by_formula
