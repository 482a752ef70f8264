"""The operator and the backbone on a GPU: agreement with float64 on the CPU."""

import pytest
import torch
from torch import Tensor

from setformer_mm.ops import set_attention

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available()"
)

IMAGE = dict(spatial_shape=(13, 11), reference_shape=(6, 5))
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.cpu().double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("epsilon", [0.1, 0.02])
@pytest.mark.parametrize("geometry", [IMAGE, {}, dict(tau=None)])
def test_output_and_gradients_agree_with_float64(dtype, epsilon, geometry, seed):
    torch.manual_seed(seed)
    inputs = [
        torch.randn(2, 143, 3, 32),
        torch.randn(3, 32, 32),
        torch.randn(3, 30, 32),
    ]
    inputs[0] = inputs[0].to(dtype).float()
    grad = torch.randn(2, 143, 3, 32).to(dtype).float()

    def run(device: str, x_dtype: torch.dtype, parameter_dtype: torch.dtype):
        x, *parameters = (
            t.to(device, x_dtype if i == 0 else parameter_dtype).requires_grad_()
            for i, t in enumerate(inputs)
        )
        out = set_attention(x, *parameters, epsilon=epsilon, **geometry)
        return out, *torch.autograd.grad(out, [x, *parameters], grad.to(out))

    expected = run("cpu", torch.float64, torch.float64)
    actual = run("cuda", dtype, torch.float32)
    for name, a, e in zip(("out", "x", "anchors", "references"), actual, expected):
        # Half-precision gradients are those of the rounded output's computation.
        assert relative_error(a, e) < TOLERANCES[dtype] * (1 if name == "out" else 10)


def test_backbone_under_autocast_stays_close_to_float32(seed):
    models = pytest.importorskip("setformer_mm.models")
    torch.manual_seed(seed)
    arch = dict(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), mlp_ratio=2)
    model = models.SeTformer(arch).cuda()
    images = torch.randn(2, 3, 97, 131, device="cuda")
    expected = model(images)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype=dtype):
            outs = model(images)
        sum(out.float().square().mean() for out in outs).backward()
        for out, reference in zip(outs, expected):
            assert relative_error(out, reference.detach().cpu().double()) < 3e-2
    assert all(p.grad.isfinite().all() for p in model.parameters())
