import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from setformer_mm.models.mlp import MLP, MixFFN
from setformer_mm.models.setformer import SeTformer
from setformer_mm.utils.errors import UnfitWeightsError


class CallsOfGELU(TorchDispatchMode):
    """Names of the operators that computed a GELU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "gelu" in func.name() and "backward" not in func.name():
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def problem(seed):
    torch.manual_seed(seed)
    mlp, x = MLP(5, 7).double(), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    hidden = F.linear(x, mlp[0].weight, mlp[0].bias)
    expected = F.linear(F.gelu(hidden), mlp[2].weight, mlp[2].bias)
    return mlp, x, hidden.detach(), expected.detach()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_new_memory_only_for_gradients(problem, grad, frozen):
    mlp, x, _, expected = problem
    mlp.requires_grad_(not frozen)
    with torch.set_grad_enabled(grad), CallsOfGELU() as calls:
        out = mlp(x)
    torch.testing.assert_close(out, expected)
    needs_memory = grad and not frozen
    assert calls.names == ["aten::gelu" if needs_memory else "aten::gelu_"]


def test_gradients(problem):
    mlp, x, _, _ = problem
    assert torch.autograd.gradcheck(mlp, x.requires_grad_())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("watcher", ["layer", "gelu", "before gelu", "everything"])
def test_hooks_see_the_layers_own_values(problem, watcher, grad, compiled):
    """The in-place GELU showed its own result as that of the layer before it."""
    mlp, x, hidden, expected = problem
    seen = []
    handle = {
        "layer": lambda: mlp[0].register_forward_hook(
            lambda module, args, out: seen.append(out)
        ),
        "gelu": lambda: mlp[1].register_forward_hook(
            lambda module, args, out: seen.append(args[0])
        ),
        "before gelu": lambda: mlp[1].register_forward_pre_hook(
            lambda module, args: seen.append(args[0])
        ),
        "everything": lambda: torch.nn.modules.module.register_module_forward_hook(
            lambda module, args, out: seen.append(out) if module is mlp[0] else None
        ),
    }[watcher]()
    run = torch.compile(mlp, backend="aot_eager") if compiled else mlp
    try:
        with torch.set_grad_enabled(grad):
            out = run(x)
    finally:
        handle.remove()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(seen[0], hidden, check_device=False)


@pytest.fixture
def mix_ffn(seed):
    torch.manual_seed(seed)
    return MixFFN(3, 6).double(), torch.randn(2, 4, 5, 3, dtype=torch.float64)


def by_hand(ffn: MixFFN, x: torch.Tensor) -> torch.Tensor:
    """Neighbours one by one, without a convolution."""
    hidden = F.pad(F.linear(x, ffn.expand.weight, ffn.expand.bias), (0, 0, 1, 1, 1, 1))
    height, width = x.shape[1:3]
    mixed = ffn.conv.bias + sum(
        ffn.conv.weight[:, 0, i, j] * hidden[:, i : i + height, j : j + width]
        for i in range(3)
        for j in range(3)
    )
    return F.linear(F.gelu(mixed), ffn.contract.weight, ffn.contract.bias)


@pytest.mark.parametrize("grad", [False, True])
def test_mix_ffn_by_hand(mix_ffn, grad):
    ffn, x = mix_ffn
    with torch.set_grad_enabled(grad), CallsOfGELU() as calls:
        out = ffn(x)
    torch.testing.assert_close(out, by_hand(ffn, x))
    assert calls.names == ["aten::gelu" if grad else "aten::gelu_"]


def test_gradients_of_mix_ffn(mix_ffn):
    ffn, x = mix_ffn
    assert torch.autograd.gradcheck(ffn, x.requires_grad_())


def test_mix_ffn_leaves_padding_out(mix_ffn):
    ffn, x = mix_ffn
    sizes = torch.tensor([[4, 5], [2, 3]])
    out = ffn(x, sizes)
    torch.testing.assert_close(out[0], by_hand(ffn, x)[0])
    torch.testing.assert_close(out[1, :2, :3], by_hand(ffn, x[1:, :2, :3])[0])


def test_hooks_see_what_the_convolution_returned(mix_ffn):
    ffn, x = mix_ffn
    seen = []
    ffn.conv.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        ffn(x)
        hidden = ffn.expand(x).permute(0, 3, 1, 2)
        conv = F.conv2d(hidden, ffn.conv.weight, ffn.conv.bias, padding=1, groups=6)
    torch.testing.assert_close(seen[0], conv)


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("height", [1, 7, 16, 64])
def test_bfloat16_of_few_columns(height, width):
    """Of which oneDNN has computed convolutions of stride 2 wrongly."""
    torch.manual_seed(0)
    ffn = MixFFN(16, 32)
    x = torch.randn(2, height, width, 16)
    expected = ffn(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = ffn(x)
    assert (out - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_weights_of_the_other_kind_are_refused(trained, strict):
    """By an init_cfg, which is not strict, MLPs would have kept their random ones."""
    arch = dict(embed_dims=16, depths=(1,), num_heads=(1,), mlp_ratio=2)
    weights = SeTformer(arch, mix_ffn=trained).state_dict()
    SeTformer(arch, mix_ffn=trained).load_state_dict(weights, strict=strict)
    with pytest.raises(
        UnfitWeightsError,
        match=rf"^stages\.0\.blocks\.0\.mlp must have mix_ffn={trained}, as when its",
    ):
        SeTformer(arch, mix_ffn=not trained).load_state_dict(weights, strict=strict)
