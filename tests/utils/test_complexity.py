"""Multiply-adds at 224 x 224, pinned to the family's table."""

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from setformer_mm.models import TOKEN_MIXERS, SeTAttention, SeTformer
from setformer_mm.ops import available_backends
from setformer_mm.utils.complexity import (
    DenseDetector,
    count_detector,
    count_model,
    count_multiply_adds,
    set_attention_multiply_adds,
)


class Classifier(nn.Module):
    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = SeTformer(arch, out_indices=(3,), gap_before_final_norm=True)
        self.head = nn.Linear(self.backbone.embed_dims[3], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[-1])


@pytest.mark.parametrize(
    "arch, giga", [("mini", 2.25), ("tiny", 3.55), ("small", 5.71), ("base", 10.00)]
)
def test_multiply_adds_at_224_are_those_of_the_table(arch, giga):
    model = Classifier(arch).eval()
    assert count_multiply_adds(model, torch.rand(1, 3, 224, 224)) == pytest.approx(
        giga * 1e9, rel=0.01
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_counters_of_torch_and_mmengine_agree_with_the_formula(backend):
    """Beyond it they count the kernel matrices and the inverse root of the fold, and
    nothing of Sinkhorn's algorithm where it runs on logarithms.
    """
    if backend not in available_backends():
        pytest.skip(f"backend {backend!r} cannot be used")
    attention = SeTAttention(64, 2, (4, 6), num_iters=3, backend=backend).eval()
    images = torch.rand(3, 5, 7, 64)
    info = get_model_complexity_info(
        attention, inputs=(images,), show_table=False, show_arch=False
    )
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        attention(images)
    kernels_and_roots = 2 * (32**3 + 2 * 32 * 32 * 24)
    inverse_root = 2 * 32**3
    once = 2 * 2 * 2 * 32**2 * 24
    operator = set_attention_multiply_adds(35, 2, 32, 32, 24, 2, 3) - once
    if backend == "reference":
        operator -= 2 * 35 * (4 * 3 + 1) * 24
    by_formula = 3 * (operator + 2 * 35 * 64 * 64) + once + kernels_and_roots
    assert info["flops"] == by_formula
    assert counter.get_total_flops() == 2 * (by_formula + inverse_root)


@pytest.mark.parametrize("num_sets", [1, 2])
def test_operator_counts_by_its_formula_whatever_runs(num_sets):
    """The reference's logarithms take fewer matrix products than the scaling form."""
    attention = SeTAttention(
        64, 2, (4, 6), return_references=num_sets == 2, num_iters=5
    )
    images, tokens = 3, 5 * 7
    projections = 2 * tokens * 64 * 64
    both_ways = tokens * (32 * 32 + 4 * 32 * 24 + 21 * 24)
    by_hand = 2 * (both_ways + 24 * 32**2 + num_sets * 2 * 24 * 32**2)
    assert set_attention_multiply_adds(tokens, 2, 32, 32, 24, num_sets, 5) == by_hand
    counted = count_multiply_adds(attention, torch.rand(images, 5, 7, 64))
    assert counted == images * (projections + by_hand)


def test_counting_leaves_no_trace_on_the_model():
    attention = SeTAttention(32, 1, (2, 2))
    before = str(vars(attention)), str(vars(attention.in_proj))
    count_multiply_adds(attention, torch.rand(1, 3, 3, 32))
    assert (str(vars(attention)), str(vars(attention.in_proj))) == before


@pytest.mark.parametrize("training", [True, False])
def test_count_does_not_depend_on_the_mode(training):
    arch = dict(embed_dims=32, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratio=2)
    model = SeTformer(arch, out_indices=(3,))
    images = torch.rand(2, 3, 64, 64)
    expected = count_multiply_adds(model.eval(), images)
    model(images)  # folds are cached now
    assert count_multiply_adds(model.train(training), images) == expected


class SoftmaxAttention(nn.Module):
    def forward(self, q: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, q)


def test_fused_softmax_attention_is_counted():
    """Torch's own counter sees nothing of the CPU's kernels."""
    tokens, channels = 24, 32
    products = 2 * tokens**2 * channels
    x = torch.rand(2, tokens, channels)
    assert count_multiply_adds(SoftmaxAttention(), x[:, None]) == 2 * products
    attention = nn.MultiheadAttention(channels, 4, batch_first=True).eval()
    projections = 4 * tokens * channels**2
    assert count_multiply_adds(attention, x, x, x) == 2 * (products + projections)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", TOKEN_MIXERS.module_dict)
def test_token_mixers_count_what_they_do_between_projections(name):
    mixer = TOKEN_MIXERS.get(name)(embed_dims=64, num_heads=2).eval()
    tokens = torch.rand(1, 8, 8, 64)
    linears = [m for m in mixer.modules() if isinstance(m, nn.Linear)]
    projections = 64 * sum(linear.weight.numel() for linear in linears)
    counted = count_multiply_adds(mixer, tokens)
    assert counted > projections if name != "NoMixing" else counted == projections


def test_counting_takes_no_memory():
    """A whole image's pixels attend to each other: 16 TiB of scores in float32."""
    tokens = 2**21
    q = torch.empty(1, 1, 1, 8).expand(1, 1, tokens, 8)
    assert count_multiply_adds(SoftmaxAttention(), q) == 2 * tokens**2 * 8


class RoIExtractor(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.out_channels = 4
        self.roi_layers = [nn.Identity()]
        self.roi_layers[0].output_size = (size, size)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 2, stride=2)
        self.neck = nn.Conv2d(4, 4, 1)
        self.rpn_head = nn.Conv2d(4, 1, 1)
        self.roi_head = nn.Module()
        self.roi_head.bbox_roi_extractor = RoIExtractor(3)
        self.roi_head.bbox_head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 9, 5))
        self.roi_head.mask_roi_extractor = RoIExtractor(6)
        self.roi_head.mask_head = nn.Conv2d(4, 2, 1)


def test_detector_counts_dense_part_once_and_heads_by_region():
    detector, image = Detector(), torch.rand(1, 3, 8, 6)
    dense = 12 * (12 * 4 + 4 * 4 + 4)
    box, mask = 4 * 9 * 5, 36 * 4 * 2
    assert count_multiply_adds(DenseDetector(detector), image) == dense
    assert count_detector(detector, image, 10, 3) == dense + 10 * box + 3 * mask
    assert count_model(detector, image) == dense + 1000 * box + 100 * mask
    assert count_model(detector.backbone, image) == 12 * 12 * 4
