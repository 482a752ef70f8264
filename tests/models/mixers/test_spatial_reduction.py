"""PVT's attention to a coarser grid, against a matrix and patches cut by hand."""

import pytest
import torch
from torch.nn import functional as F

from setformer_mm.models.mixers.spatial_reduction import SpatialReductionAttention


@pytest.mark.parametrize("shape", [(4, 6), (5, 6), (3, 3)])
def test_by_its_definition(shape):
    """Also for grids that the reduction does not divide, and smaller ones."""
    height, width = shape
    mixer = SpatialReductionAttention(8, 2, reduction=4).double()
    torch.nn.init.normal_(mixer.norm.weight)
    x = torch.randn(2, height, width, 8).double()
    padded = torch.zeros(2, 8, 8, 8).double()
    padded[:, :height, :width] = x
    flat = mixer.reduce.weight.permute(0, 2, 3, 1).reshape(8, -1)
    tokens = []
    for top in range(0, height, 4):
        for left in range(0, width, 4):
            patch = padded[:, top : top + 4, left : left + 4].reshape(2, -1)
            tokens.append(patch @ flat.T + mixer.reduce.bias)
    coarse = mixer.norm(torch.stack(tokens, 1))
    q = mixer.q_proj(x).view(2, -1, 2, 4)
    k, v = mixer.kv_proj(coarse).view(2, -1, 2, 2, 4).unbind(2)
    weights = torch.einsum("bihd,bjhd->bhij", q, k).div(2).softmax(-1)
    out = torch.einsum("bhij,bjhd->bihd", weights, v).reshape(x.shape)
    torch.testing.assert_close(mixer(x), mixer.out_proj(out))


def test_without_reduction_it_is_softmax_attention():
    mixer = SpatialReductionAttention(8, 2)
    assert not hasattr(mixer, "reduce")
    x = torch.randn(2, 3, 5, 8)
    q = mixer.q_proj(x).view(2, 15, 2, 4).transpose(1, 2)
    k, v = mixer.kv_proj(x).view(2, 15, 2, 2, 4).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(mixer(x), mixer.out_proj(out))


def test_no_reduction_below_one():
    with pytest.raises(ValueError, match="reduction must be a positive integer, got 0"):
        SpatialReductionAttention(8, 2, reduction=0)
