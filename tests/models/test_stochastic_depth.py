"""Our stochastic depth is torchvision's, random numbers included."""

import pytest
import torch

from setformer_mm.models.stochastic_depth import StochasticDepth


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_torchvision(rate, training, dtype):
    ops = pytest.importorskip("torchvision.ops")
    x = torch.randn(64, 3, 2, 5).to(dtype)
    outs = []
    for module in (StochasticDepth(rate), ops.StochasticDepth(rate, mode="row")):
        torch.manual_seed(0)
        outs.append(module.train(training)(x))
    assert torch.equal(*outs)
    assert outs[0].dtype == dtype
