"""The linear layer that runs as a convolution where that is faster."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from setformer_mm.models.pointwise_linear import PointwiseLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 20, 7, 6), (2, 5, 7, 6), (1, 1, 1, 6), (0, 3, 4, 6), (5, 6)]
)
def test_it_is_a_linear_layer(shape, dtype):
    layer, linear = PointwiseLinear(6, 10).to(dtype), nn.Linear(6, 10).to(dtype)
    linear.load_state_dict(layer.state_dict())
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    out, expected = layer(x), linear(x)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    for a, b in zip(
        torch.autograd.grad(out, [x, *layer.parameters()], weight),
        torch.autograd.grad(expected, [x, *linear.parameters()], weight),
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_tokens_stay_contiguous():
    """So that neither this layer nor the one after it copies them."""
    for height in 5, 20:
        assert PointwiseLinear(6, 10)(torch.randn(2, height, 7, 6)).is_contiguous()


def test_compiled_training_takes_any_size():
    """Inductor makes the second size an open one."""
    layer = PointwiseLinear(6, 10)
    compiled = torch.compile(layer)
    for height, width in (12, 10), (14, 9), (3, 20):
        x = torch.randn(2, height, width, 6).requires_grad_()
        out = compiled(x)
        torch.testing.assert_close(out, layer(x))
        weight = torch.randn_like(out)
        torch.testing.assert_close(
            torch.autograd.grad(out, x, weight),
            torch.autograd.grad(layer(x), x, weight),
        )


@pytest.mark.parametrize(
    "tokens, grad, convolves",
    [(19, False, False), (20, False, True), (159, True, False), (160, True, True)],
)
def test_it_convolves_where_tokens_are_many(tokens, grad, convolves, monkeypatch):
    calls = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args: calls.append(1) or conv2d(*args))
    with torch.set_grad_enabled(grad):
        PointwiseLinear(6, 10)(torch.randn(1, 1, tokens, 6))
    assert bool(calls) == convolves
