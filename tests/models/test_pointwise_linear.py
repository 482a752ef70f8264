"""The linear layer that runs as a convolution where that is faster."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from setformer_mm.models import pointwise_linear as module
from setformer_mm.models.pointwise_linear import pointwise_linear

MANY_TOKENS = (2, 20, 7, 6)


@pytest.fixture(autouse=True)
def a_processor_with_fast_mkl(monkeypatch):
    """Whatever the tests run on; MANY_TOKENS are many for this one."""
    monkeypatch.setattr(module, "_HAS_SLOW_MKL", False)


@pytest.fixture
def layer():
    return nn.Linear(6, 10)


@pytest.fixture
def convolutions(monkeypatch) -> list:
    """Gets an element for each convolution."""
    calls = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args: calls.append(1) or conv2d(*args))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [MANY_TOKENS, (2, 5, 7, 6), (1, 1, 1, 6), (0, 3, 4, 6), (5, 6)]
)
def test_it_is_what_the_layer_computes(layer, shape, dtype):
    layer.to(dtype)
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    out, expected = pointwise_linear(layer, x), layer(x)
    torch.testing.assert_close(out, expected)
    inputs, weight = [x, *layer.parameters()], torch.randn_like(out)
    for a, b in zip(
        torch.autograd.grad(out, inputs, weight),
        torch.autograd.grad(expected, inputs, weight),
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_tokens_stay_contiguous(layer):
    """So that neither this layer nor the one after it copies them."""
    for height in 5, 20:
        assert pointwise_linear(layer, torch.randn(2, height, 7, 6)).is_contiguous()


@pytest.mark.timeout(300)  # compiles three times
def test_compiled_training_takes_any_size(layer):
    """Inductor makes the second size an open one."""
    compiled = torch.compile(partial(pointwise_linear, layer))
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
def test_it_convolves_where_tokens_are_many(
    layer, tokens, grad, convolves, convolutions
):
    with torch.set_grad_enabled(grad):
        pointwise_linear(layer, torch.randn(1, 1, tokens, 6))
    assert bool(convolutions) == convolves


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    "tokens, dtype, autocast, convolves",
    [
        (10, torch.float32, False, True),
        (9, torch.float32, False, False),  # too few tokens
        (12, torch.float32, True, False),  # a product in bfloat16
        (12, torch.bfloat16, False, False),
    ],
)
def test_where_mkl_is_slow_it_convolves_sooner(
    layer, tokens, dtype, autocast, convolves, grad, convolutions, monkeypatch
):
    monkeypatch.setattr(module, "_HAS_SLOW_MKL", True)
    monkeypatch.setattr(module, "_MIN_TOKENS", 10)
    monkeypatch.setattr(module, "_MIN_MULTIPLY_ADDS", 8 * 6 * 10)
    x = torch.randn(1, 1, tokens, 6, dtype=dtype)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", enabled=autocast):
        pointwise_linear(layer.to(dtype), x)
    assert bool(convolutions) == convolves
    monkeypatch.setattr(module, "_MIN_MULTIPLY_ADDS", 13 * 6 * 10)
    del convolutions[:]
    with torch.set_grad_enabled(grad), torch.autocast("cpu", enabled=autocast):
        pointwise_linear(layer, x)
    assert not convolutions  # too small a layer


@pytest.mark.parametrize(
    "processor, has_mkl, has_onednn, slow",
    [
        ("vendor_id\t: AuthenticAMD\n", True, True, True),
        ("vendor_id\t: AuthenticAMD\n", False, True, False),
        ("vendor_id\t: AuthenticAMD\n", True, False, False),
        ("vendor_id\t: GenuineIntel\n", True, True, False),
        (None, True, True, False),
    ],
)
def test_mkl_is_slow_on_processors_of_amd(
    processor, has_mkl, has_onednn, slow, monkeypatch
):
    def read_text(*_, **__):
        if processor is None:
            raise FileNotFoundError
        return processor

    monkeypatch.setattr(module.Path, "read_text", read_text)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: has_mkl)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    assert module._has_slow_mkl() == slow


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    "watch", ["pre", "post", "backward", "backward pre", "everything", "forward"]
)
def test_whoever_watches_the_layer_sees_it_called(layer, watch, grad, compiled):
    seen = []

    def notice(*_):
        seen.append(watch)

    def forward(x):
        seen.append(watch)
        return F.linear(x, layer.weight, layer.bias)

    handle = {
        "pre": lambda: layer.register_forward_pre_hook(notice),
        "post": lambda: layer.register_forward_hook(notice),
        "backward": lambda: layer.register_full_backward_hook(notice),
        "backward pre": lambda: layer.register_full_backward_pre_hook(notice),
        "everything": lambda: register_module_forward_hook(notice),
        "forward": lambda: setattr(layer, "forward", forward),
    }[watch]()
    run = partial(pointwise_linear, layer)
    if compiled:
        run = torch.compile(run, backend="aot_eager")
    x = torch.randn(MANY_TOKENS, requires_grad=True)
    try:
        with torch.set_grad_enabled(grad):
            out = run(x)
        if grad:
            out.sum().backward()
    finally:
        if handle is not None:
            handle.remove()
    assert bool(seen) == (grad or not watch.startswith("backward"))


def test_what_stands_in_place_of_a_layer_is_called():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer, x = Doubled(6, 10), torch.randn(MANY_TOKENS)
    expected = 2 * F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(pointwise_linear(layer, x), expected)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@torch.no_grad()
def test_sparse_weights(layer, layout):
    x = torch.randn(MANY_TOKENS)
    expected = layer(x)
    weight = layer.weight.detach().to_sparse(layout=layout)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    torch.testing.assert_close(pointwise_linear(layer, x), expected)
