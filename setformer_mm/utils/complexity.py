"""Multiply-adds of models that contain SeT attention.

Counters see the matrix products that the reference happens to run, which on logarithms
are fewer than in the scaling form, and of a compiled kernel what a formula tells them;
torch's is in :mod:`setformer_mm.ops.registration`, mmengine's here. In
:func:`count_multiply_adds` the operator counts by its formula, whichever backend runs,
and everything else by torch's own counter. It runs on shapes alone, so that a detector
at full size takes seconds and no memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from mmengine.analysis import complexity_analysis
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ..models import SeTAttention
from ..ops.flops import forward_multiply_adds
from ..ops.registration import TRACED


def set_attention_multiply_adds(
    num_tokens: int,
    num_heads: int,
    head_dim: int,
    num_anchors: int,
    num_references: int,
    num_sets: int,
    num_iters: int,
) -> int:
    """Multiply-adds of SeT attention, without projections, for one image.

    What :func:`setformer_mm.ops.flops.forward_multiply_adds` counts, and ``2 K^2 M`` a
    head and set of references for the fold.

    Args:
        num_tokens (int): ``N``.
        num_heads (int): ``h``.
        head_dim (int): ``D``.
        num_anchors (int): ``K``.
        num_references (int): ``M``, of each set.
        num_sets (int): Sets of references, 1 or 2.
        num_iters (int): ``L``.

    Returns:
        int: Multiply-adds over all heads.
    """
    operator = forward_multiply_adds(
        (1, num_tokens, num_heads, head_dim),
        (num_heads, num_anchors, 2 * num_references),
        num_iters,
    )
    return operator + num_heads * num_sets * 2 * num_anchors**2 * num_references


@torch.no_grad()
def count_multiply_adds(model: nn.Module, *inputs: object) -> int:
    """Count the multiply-adds of ``model(*inputs)``.

    Args:
        model (nn.Module): Any model whose forward pass depends on shapes, not values;
            :class:`SeTAttention` inside it counts by
            :func:`set_attention_multiply_adds`, convolutions, linear layers, softmax
            attention and other matrix products as torch's ``FlopCounterMode`` sees them
            (which reports two operations a multiply-add). Norms, activations, resizing
            and operators of other extensions count nothing.
        *inputs (object): Arguments of the forward pass: tensors, or lists of them, of
            which the shapes matter.

    Returns:
        int: Multiply-adds of the whole batch.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(fake):
        model = deepcopy(model)
    inputs = tree_map_only(Tensor, fake.from_tensor, inputs)
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
                1 if attention.return_references is None else 2,
                attention.num_iters,
            )

        def operator_ends(module: nn.Module, args: tuple) -> None:
            nonlocal seen_in_operator
            seen_in_operator += counter.get_total_flops()

        attention.switch_to_deploy()
        attention.in_proj.register_forward_hook(operator_starts)
        attention.out_proj.register_forward_pre_hook(operator_ends)

    with fake, _attention_in_products():
        for module in model.modules():
            if isinstance(module, SeTAttention):
                watch(module)
        with counter:
            model(*inputs)
    return (counter.get_total_flops() - seen_in_operator) // 2 + by_formula


@contextmanager
def _attention_in_products() -> Iterator[None]:
    """Make torch's softmax attention run as two matrix products.

    Its fused kernels for the CPU have no formula in the counter, which sees nothing.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class DenseDetector(nn.Module):
    """The part of a detector whose cost grows with the image.

    Args:
        detector (nn.Module): A two-stage detector of mmdet.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck = detector.backbone, detector.neck
        self.rpn_head = detector.rpn_head

    def forward(self, images: Tensor) -> tuple:
        return self.rpn_head(self.neck(self.backbone(images)))


def count_detector(
    detector: nn.Module, image: Tensor, num_boxes: int = 1000, num_masks: int = 100
) -> int:
    """Count the multiply-adds of a Mask R-CNN.

    By default as in the tables of Swin and ConvNeXt, which mmdet 2 counted: as many
    regions as the RPN proposes at most go through the box head, and as many as are
    detected at most through the mask head. RoIAlign and NMS count nothing.

    Args:
        detector (nn.Module): A Mask R-CNN of mmdet.
        image (Tensor): A batch of images ``(1, 3, H, W)``, of which the shape matters.
        num_boxes (int): Regions that the box head gets.
        num_masks (int): Regions that the mask head gets.

    Returns:
        int: Multiply-adds of an image.
    """
    count = count_multiply_adds(DenseDetector(detector), image)
    heads = detector.roi_head
    for extractor, head, regions in (
        (heads.bbox_roi_extractor, heads.bbox_head, num_boxes),
        (heads.mask_roi_extractor, heads.mask_head, num_masks),
    ):
        size = extractor.roi_layers[0].output_size
        region = image.new_zeros(1, extractor.out_channels, *size)
        count += regions * count_multiply_adds(head, region)
    return count


def count_model(model: nn.Module, image: Tensor) -> int:
    """Count the multiply-adds of a whole model as papers do.

    Of a segmenter of mmseg these are backbone and decode head: the auxiliary head has
    no part in inference. Swin-T with UperNet has 60 M parameters with that head, and
    945 G multiply-adds at 512 x 2048 without it, which is what its authors publish.

    Args:
        model (nn.Module): A classifier of mmpretrain, a Mask R-CNN of mmdet (see
            :func:`count_detector`) or a segmenter of mmseg.
        image (Tensor): A batch of images ``(1, 3, H, W)``, of which the shape matters.

    Returns:
        int: Multiply-adds of an image.
    """
    if hasattr(model, "roi_head"):
        return count_detector(model, image)
    return count_multiply_adds(model, image)


def _traced_multiply_adds(inputs: list, outputs: list) -> int:
    """Multiply-adds of the compiled operator as a node of torch.jit.trace's graph."""
    x, _, score_maps, *_, num_iters, _ = inputs
    num_iters = num_iters.toIValue()
    return forward_multiply_adds(x.type().sizes(), score_maps.type().sizes(), num_iters)


# mmengine has no public way to tell `get_model_complexity_info` about an operator.
if hasattr(complexity_analysis, "_DEFAULT_SUPPORTED_FLOP_OPS"):
    complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS[TRACED] = _traced_multiply_adds
