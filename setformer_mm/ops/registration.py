"""The compiled operator in Python: how it is called, and what torch has to know of it
beside how to run it, which is shapes, gradients and the number of operations.

Its schemas are in csrc/set_attention.cpp. Shapes: ``x`` is ``(B, N, h, D)``, the maps
of :class:`Folded` are float64, ``valid`` is int64 ``(B, 2)`` or None; for the backward
pass ``scalings`` of shape ``(B, h, L + 1, 2 M)`` and ``aggregates`` of shape ``(B, h,
M, K + 1)`` are kept, float64, too.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import extension
from .flops import backward_multiply_adds, forward_multiply_adds
from .fold import Folded
from .positions import Shape2d

FORWARD = "setformer_mm::set_attention_forward"
BACKWARD = "setformer_mm::set_attention_backward"
TRACED = "setformer_mm::set_attention_traced"


class Fields(NamedTuple):
    """What follows the tensors in both schemas.

    A sequence has shapes of zeros; tau is 0 without position weights.
    """

    height: int
    width: int
    reference_height: int
    reference_width: int
    alpha: float
    epsilon: float
    num_iters: int
    tau: float


def set_attention_compiled(
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
    """The operator over tokens and folded parameters, by the kernel for x's device.

    Arguments are those of :func:`~setformer_mm.ops.reference.set_attention_reference`.
    Tokens are computed with in float32, or in float64 if they come in it.

    Returns:
        Tensor: Of shape ``(B, N, h, K)`` in x's dtype.
    """
    *maps, alpha = folded.to(torch.float64)
    fields = Fields(
        *(spatial_shape or (0, 0)),
        *(reference_shape or (0, 0)),
        alpha,
        epsilon,
        num_iters,
        tau or 0.0,
    )
    operators = torch.ops.setformer_mm
    if torch.jit.is_tracing():
        grid = torch.stack([torch.as_tensor(side) for side in fields[:2]])
        return operators.set_attention_traced(x, *maps, valid, grid, *fields[2:])
    out, _, _ = operators.set_attention_forward(x, *maps, valid, *fields)
    return out


def _traced(
    x: Tensor,
    anchors: Tensor,
    score_maps: Tensor,
    value_map: Tensor,
    valid: Tensor | None,
    grid: Tensor,
    *other_fields,
) -> Tensor:
    """For graphs of torch.jit, in which integers are constants and tensors are not: the
    token grid is a tensor ``(H_t, W_t)``, so that one graph is for all sizes.
    """
    maps = anchors, score_maps, value_map
    fields = *grid.tolist(), *other_fields
    out, _, _ = torch.ops.setformer_mm.set_attention_forward(x, *maps, valid, *fields)
    return out


def _fake_forward(
    x: Tensor,
    anchors: Tensor,
    score_maps: Tensor,
    value_map: Tensor,
    valid: Tensor | None,
    *fields,
) -> tuple[Tensor, ...]:
    batch, num_tokens, heads, _ = x.shape
    _, num_anchors, both_references = score_maps.shape
    num_scalings = Fields(*fields).num_iters + 1
    return (
        x.new_empty(batch, num_tokens, heads, num_anchors),
        anchors.new_empty(batch, heads, num_scalings, both_references),
        anchors.new_empty(batch, heads, both_references // 2, num_anchors + 1),
    )


def _fake_backward(
    grad_out: Tensor,
    x: Tensor,
    anchors: Tensor,
    score_maps: Tensor,
    value_map: Tensor,
    *saved_and_fields,
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (x, anchors, score_maps, value_map))


def _keep_for_backward(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    *tensors, valid = inputs[:5]
    ctx.fields = inputs[5:]
    _, *saved = output
    ctx.mark_non_differentiable(*saved)
    ctx.set_materialize_grads(False)  # spares zeros for these two
    ctx.save_for_backward(*tensors, *saved, valid)


def _backward(ctx, grad_out: Tensor | None, *_) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return (None,) * len(ctx.needs_input_grad)
    gradients = torch.ops.setformer_mm.set_attention_backward(
        grad_out, *ctx.saved_tensors, *ctx.fields
    )
    return *gradients, None, *(None for _ in ctx.fields)


def _no_second_derivatives(ctx, *_) -> None:
    raise RuntimeError(
        "compiled set_attention is differentiable once; gradients of gradients need "
        "backend='reference'"
    )


def _forward_flops(
    x_shape: torch.Size,
    anchors_shape: torch.Size,
    score_maps_shape: torch.Size,
    value_map_shape: torch.Size,
    valid_shape: torch.Size | None,
    *fields,
    **_,
) -> int:
    num_iters = Fields(*fields).num_iters
    return 2 * forward_multiply_adds(x_shape, score_maps_shape, num_iters)


def _backward_flops(
    grad_out_shape: torch.Size,
    x_shape: torch.Size,
    anchors_shape: torch.Size,
    score_maps_shape: torch.Size,
    value_map_shape: torch.Size,
    scalings_shape: torch.Size,
    aggregates_shape: torch.Size,
    valid_shape: torch.Size | None,
    *fields,
    **_,
) -> int:
    num_iters = Fields(*fields).num_iters
    return 2 * backward_multiply_adds(x_shape, score_maps_shape, num_iters)


if extension.WHY_MISSING is None:
    library = torch.library
    _fragment = library.Library("setformer_mm", "FRAGMENT")
    _fragment.define(
        "set_attention_traced(Tensor x, Tensor anchors, Tensor score_maps, "
        "Tensor value_map, Tensor? valid, Tensor grid, int reference_height, "
        "int reference_width, float alpha, float epsilon, int num_iters, float tau) "
        "-> Tensor"
    )
    _fragment.impl("set_attention_traced", _traced, "CompositeImplicitAutograd")
    library.register_fake(FORWARD, _fake_forward)
    library.register_fake(BACKWARD, _fake_backward)
    library.register_autograd(FORWARD, _backward, setup_context=_keep_for_backward)
    library.register_autograd(BACKWARD, _no_second_derivatives)
    operators = torch.ops.setformer_mm
    register_flop_formula(operators.set_attention_forward)(_forward_flops)
    register_flop_formula(operators.set_attention_backward)(_backward_flops)
