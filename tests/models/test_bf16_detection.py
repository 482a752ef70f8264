"""bf16 autocast must not blur boxes or merge the scores of proposals."""

import pytest
import torch

pytest.importorskip("mmdet")
from mmdet.models import SingleRoIExtractor
from mmengine.registry import init_default_scope

from setformer_mm.models.bf16_detection import Float32RoIExtractor, Float32RPNHead

POOLING = dict(
    roi_layer=dict(type="RoIAlign", output_size=2, sampling_ratio=2),
    out_channels=3,
    featmap_strides=[4, 8],
)


def test_boxes_are_not_rounded():
    maps = [torch.rand(1, 3, side, side) for side in (256, 128)]
    maps = [feature.bfloat16() for feature in maps]
    rois = torch.tensor([[0, 901.3, 850.7, 930.9, 873.1], [0, 3.2, 5.1, 400.7, 600.3]])
    expected = SingleRoIExtractor(**POOLING)([f.float() for f in maps], rois)
    result = Float32RoIExtractor(**POOLING)(maps, rois)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_gradients_reach_the_maps_in_their_dtype():
    maps = [torch.rand(1, 3, side, side).bfloat16() for side in (32, 16)]
    for feature in maps:
        feature.requires_grad_()
    rois = torch.tensor([[0, 1.0, 2.0, 30.0, 40.0], [0, 0.0, 0.0, 120.0, 127.0]])
    Float32RoIExtractor(**POOLING)(maps, rois).sum().backward()
    assert maps[0].grad.dtype == torch.bfloat16
    assert maps[0].grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_pass_through(dtype):
    maps = [torch.rand(1, 3, side, side, dtype=dtype) for side in (32, 16)]
    rois = torch.tensor([[0, 1.0, 2.0, 30.0, 40.0]])
    assert Float32RoIExtractor(**POOLING)(maps, rois).dtype == dtype


def test_proposal_scores_are_fp32_under_autocast():
    init_default_scope("mmdet")  # whatever scope the tests before have left
    head = Float32RPNHead(
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[8], ratios=[1.0], strides=[4]
        ),
    )
    with torch.autocast("cpu", torch.bfloat16):
        scores, offsets = head.forward_single(torch.rand(1, 8, 4, 4))
    assert scores.dtype == offsets.dtype == torch.float32
