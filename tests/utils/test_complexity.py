"""Multiply-adds at 224 x 224, pinned to the family's table."""

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from setformer_mm.models import SeTAttention, SeTformer
from setformer_mm.utils.complexity import (
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
    "arch, giga", [("mini", 2.45), ("tiny", 3.85), ("small", 6.16), ("base", 10.60)]
)
def test_multiply_adds_at_224_are_those_of_the_table(arch, giga):
    model = Classifier(arch).eval()
    assert count_multiply_adds(model, torch.rand(1, 3, 224, 224)) == pytest.approx(
        giga * 1e9, rel=0.01
    )


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_counters_of_torch_and_mmengine_agree_with_the_formula(backend):
    """Beyond it they count the kernel matrices and the inverse root of the fold."""
    attention = SeTAttention(64, 2, (4, 6), backend=backend).eval()
    images = torch.rand(3, 5, 7, 64)
    info = get_model_complexity_info(
        attention, inputs=(images,), show_table=False, show_arch=False
    )
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        attention(images)
    kernels_and_roots = 2 * (32**3 + 32 * 32 * 24)
    inverse_root = 2 * 32**3
    once = 2 * 2 * 32**2 * 24
    operator = set_attention_multiply_adds(35, 2, 32, 32, 24, 3) - once
    by_formula = 3 * (operator + 2 * 35 * 64 * 64) + once + kernels_and_roots
    assert info["flops"] == by_formula
    assert counter.get_total_flops() == 2 * (by_formula + inverse_root)


@pytest.mark.parametrize("epsilon", [0.1, 0.01])
def test_operator_counts_by_its_formula_whatever_runs(epsilon):
    """The log domain runs fewer matrix products than the scaling form."""
    attention = SeTAttention(64, 2, (4, 6), epsilon=epsilon, num_iters=5)
    images, tokens = 3, 5 * 7
    projections = 2 * tokens * 64 * 64
    by_hand = 2 * (tokens * (32 * 32 + 3 * 32 * 24 + 11 * 24) + 3 * 24 * 32**2)
    assert set_attention_multiply_adds(tokens, 2, 32, 32, 24, 5) == by_hand
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
