"""The backbone's convolutions of stride 2, where oneDNN's own are wrong."""

import pytest
import torch
from torch import nn

from setformer_mm.models import SeTformer
from setformer_mm.models.strided_conv import StridedConv2d

SMALL = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), mlp_ratio=2)


def close(values, expected, tolerance=0.05) -> bool:
    # False of NaN, too
    return bool((values - expected).norm() <= tolerance * expected.norm())


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("height", [1, 7, 16, 64])
def test_bfloat16_of_few_columns(height, width):
    """Of one column of results, oneDNN writes some only, and others wrongly."""
    torch.manual_seed(0)
    conv = StridedConv2d(32, 64)
    x = torch.randn(2, 32, height, width, requires_grad=True)
    expected = conv(x)
    assert expected.shape == (2, 64, -(-height // 2), -(-width // 2))
    weights = torch.randn_like(expected)
    inputs = x, conv.weight, conv.bias
    expected_gradients = torch.autograd.grad(expected, inputs, weights)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    assert close(out, expected)
    gradients = torch.autograd.grad(out, inputs, weights.bfloat16())
    assert all(map(close, gradients, expected_gradients))


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_is_the_convolution_of_torch(width):
    torch.manual_seed(0)
    conv, plain = StridedConv2d(4, 6), nn.Conv2d(4, 6, 3, stride=2, padding=1)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 4, 17, width)
    torch.testing.assert_close(conv(x), plain(x), rtol=1e-5, atol=1e-5)


def test_narrow_picture_in_bfloat16():
    torch.manual_seed(0)
    model = SeTformer(SMALL).eval()
    images = torch.randn(1, 3, 512, 20)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            outs = model(images)
    assert all(map(close, outs, expected))
