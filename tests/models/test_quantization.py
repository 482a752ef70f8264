"""Models of the package, quantised by torch.ao and torchao as those document it."""

import copy

import pytest
import torch
from torch import nn

from setformer_mm.models import TOKEN_MIXERS
from setformer_mm.models.stages import SeTBlock
from toolkit.quantisers import QUANTISERS, count_layers, torch_ao_dynamic

pytest.importorskip("torchao")

# As a share of the size of a block's branches; INT8 keeps about two digits.
TOLERANCE = 0.1

every_quantiser = pytest.mark.parametrize("quantise", QUANTISERS.values())


def error_of(branches: torch.Tensor, expected: torch.Tensor) -> float:
    return float((branches - expected).norm() / expected.norm())


@pytest.fixture
def tokens():
    """So many that layers of floats run as convolutions."""
    return torch.randn(2, 16, 16, 32)


@pytest.mark.parametrize("mixer", TOKEN_MIXERS.module_dict)
@every_quantiser
@torch.no_grad()
def test_all_layers_of_a_block(mixer, quantise, tokens):
    block = SeTBlock(32, 2, 2.0, 0.0, dict(type=mixer)).eval()
    quantised = quantise(block)
    assert count_layers(block)[0] == 0
    done, layers = count_layers(quantised)
    assert done == layers == count_layers(block)[1] >= 4
    expected = block(tokens) - tokens
    assert 0 < error_of(quantised(tokens) - tokens, expected) < TOLERANCE


@every_quantiser
@torch.no_grad()
def test_other_sizes_and_types(quantise):
    """One token; few; and bfloat16 by autocast."""
    block = SeTBlock(32, 2, 2.0, 0.0, dict(type="SeTAttention")).eval()
    quantised = quantise(block)
    for shape in (1, 1, 1, 32), (2, 5, 3, 32):
        x = torch.randn(shape)
        assert 0 < error_of(quantised(x) - x, block(x) - x) < TOLERANCE
    with torch.autocast("cpu", torch.bfloat16):
        assert error_of((quantised(x) - x).float(), block(x) - x) < TOLERANCE


@pytest.mark.parametrize("name", QUANTISERS)
@torch.no_grad()
def test_weights_are_saved_and_loaded(name, tokens, tmp_path):
    """As docs/quantization.md says; before and after deploying, and in a copy."""
    quantise, path = QUANTISERS[name], tmp_path / "int8.pth"
    blocks = [SeTBlock(32, 2, 2.0, 0.0, dict(type="SeTAttention")) for _ in range(2)]
    source, target = (quantise(block.eval()) for block in blocks)
    expected = source(tokens)
    torch.save(source.state_dict(), path)
    weights = torch.load(path, weights_only=True)
    target.load_state_dict(weights, assign=name.startswith("torchao"))
    assert torch.equal(target(tokens), expected)
    target.attn.switch_to_deploy()
    torch.testing.assert_close(copy.deepcopy(target)(tokens), expected)


@pytest.mark.parametrize("name", [n for n in QUANTISERS if n.startswith("torchao")])
@torch.no_grad()
def test_compiled(name, tokens):
    block = SeTBlock(32, 2, 2.0, 0.0, dict(type="SeTAttention")).eval()
    quantised = QUANTISERS[name](block)
    quantised.attn.switch_to_deploy()
    run = torch.compile(copy.deepcopy(quantised), fullgraph=True, backend="aot_eager")
    assert error_of(run(tokens) - tokens, quantised(tokens) - tokens) < 0.01


def test_torch_ao_leaves_no_layer_out_that_is_named():
    """It goes by the very type, and says nothing where it finds none."""
    block = SeTBlock(32, 2, 2.0, 0.0, dict(type="SeTAttention"))
    names = [n for n, m in block.named_modules() if isinstance(m, nn.Linear)]
    quantised = torch_ao_dynamic(block)
    assert not any(isinstance(quantised.get_submodule(n), nn.Linear) for n in names)


@every_quantiser
@torch.inference_mode()
def test_the_classifier_of_digits(quantise):
    """Its answers, and nearly all of its confidence, survive."""
    pytest.importorskip("timm")
    import timm
    from digit_pictures import digit_picture

    import setformer_mm.timm  # noqa: F401

    model = timm.create_model("setformer_digits", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    pictures = torch.stack([torch.tensor(digit_picture(i)) for i in range(40)]) / 255
    pictures = ((pictures - mean) / std).permute(0, 3, 1, 2)
    expected = model(pictures)
    quantised = quantise(model)
    done, layers = count_layers(quantised)
    assert done == layers == 25
    logits = quantised(pictures)
    assert error_of(logits, expected) < TOLERANCE
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() >= 0.95
