"""Multiply-adds of models that contain SeT attention.

Counters see the matrix products that the reference happens to run, which are fewer on
logarithms than in the scaling form, and of a compiled kernel what a formula tells them;
torch's is in :mod:`setformer_mm.ops.registration`, mmengine's here. In
:func:`count_multiply_adds` the operator counts by its formula, whichever backend runs,
and everything else by torch's own counter.
"""

from copy import deepcopy

import torch
from mmengine.analysis import complexity_analysis
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models import SeTAttention
from ..ops.flops import forward_multiply_adds
from ..ops.registration import FORWARD, Fields


def set_attention_multiply_adds(
    num_tokens: int,
    num_heads: int,
    head_dim: int,
    num_anchors: int,
    num_references: int,
    num_iters: int,
) -> int:
    """Multiply-adds of SeT attention, without projections, for one image.

    What :func:`setformer_mm.ops.flops.forward_multiply_adds` counts, and ``2 K^2 M`` a
    head for the fold.

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
    operator = forward_multiply_adds(
        (1, num_tokens, num_heads, head_dim),
        (num_heads, num_anchors, num_references),
        num_iters,
    )
    return operator + num_heads * 2 * num_anchors**2 * num_references


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
    seen_in_operator = 0
    by_formula = 0

    # The operator runs between the end of in_proj and the start of out_proj; the fold,
    # wherever it ran, belongs to the formula.
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

        attention.switch_to_deploy()
        attention.in_proj.register_forward_hook(operator_starts)
        attention.out_proj.register_forward_pre_hook(operator_ends)

    model = deepcopy(model)
    for module in model.modules():
        if isinstance(module, SeTAttention):
            watch(module)
    with counter:
        model(*inputs)
    return (counter.get_total_flops() - seen_in_operator) // 2 + by_formula


def _traced_multiply_adds(inputs: list, outputs: list) -> int:
    """Multiply-adds of the compiled operator as a node of torch.jit.trace's graph."""
    x, _, score_map, _, *fields = inputs
    num_iters = Fields(*fields).num_iters.toIValue()
    return forward_multiply_adds(x.type().sizes(), score_map.type().sizes(), num_iters)


# mmengine has no public way to tell `get_model_complexity_info` about an operator.
if hasattr(complexity_analysis, "_DEFAULT_SUPPORTED_FLOP_OPS"):
    complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS[FORWARD] = _traced_multiply_adds
