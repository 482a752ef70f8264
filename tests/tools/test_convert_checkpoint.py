"""tools/convert_checkpoint.py, on made-up checkpoints with NAT's names and shapes."""

import importlib.util
import io
import os
import pickle
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn
from torch.nn import functional as F

from setformer_mm import SeTformer
from setformer_mm.utils.checkpoints import load_fitting_weights
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.resuming import require_training_state
from toolkit.preflight import require_pretrained_weights

ROOT = Path(__file__).parents[2]
# Channels, MLP ratio, depths and layer scale as in NAT's classification/nat.py, and the
# parameters that this code, run beside a stand-in for its attention, has.
NAT = {
    "mini": (64, 3, (3, 4, 6, 5), False, 19_984_174),
    "tiny": (64, 3, (3, 4, 18, 5), False, 27_901_582),
    "small": (96, 2, (3, 4, 18, 5), True, 50_743_297),
    "base": (128, 2, (3, 4, 18, 5), True, 89_769_652),
}
# A NAT of the same kind that takes no time, with two blocks more than our model.
SMALL = (16, 2, (1, 1, 2, 3), True)
SMALL_ARCH = dict(
    embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 1, 1, 1), mlp_ratio=2
)
SMALL_CONFIG = f"""
default_scope = "mmpretrain"
custom_imports = dict(imports=["setformer_mm"])
model = dict(
    type="ImageClassifier",
    backbone=dict(type="SeTformer", arch={SMALL_ARCH}, out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=7, in_channels=128),
)
"""


def nat_shapes(embed_dims, mlp_ratio, depths, layer_scale, num_classes=1000) -> dict:
    """Names and shapes of a NAT's tensors, with heads of 32 channels at least one."""
    shapes = {
        "patch_embed.proj.0.weight": (embed_dims // 2, 3, 3, 3),
        "patch_embed.proj.0.bias": (embed_dims // 2,),
        "patch_embed.proj.1.weight": (embed_dims, embed_dims // 2, 3, 3),
    }
    for name in ("proj.1.bias", "norm.weight", "norm.bias"):
        shapes[f"patch_embed.{name}"] = (embed_dims,)
    for level, depth in enumerate(depths):
        c = embed_dims * 2**level
        for index in range(depth):
            block = {
                "attn.rpb": (max(c // 32, 1), 13, 13),
                "attn.qkv.weight": (3 * c, c),
                "attn.qkv.bias": (3 * c,),
                "attn.proj.weight": (c, c),
                "attn.proj.bias": (c,),
                "mlp.fc1.weight": (c * mlp_ratio, c),
                "mlp.fc1.bias": (c * mlp_ratio,),
                "mlp.fc2.weight": (c, c * mlp_ratio),
                "mlp.fc2.bias": (c,),
            }
            for norm in ("norm1", "norm2"):
                block |= {f"{norm}.weight": (c,), f"{norm}.bias": (c,)}
            if layer_scale:
                block |= dict(gamma1=(c,), gamma2=(c,))
            prefix = f"levels.{level}.blocks.{index}."
            shapes |= {prefix + name: shape for name, shape in block.items()}
        if level < len(depths) - 1:
            prefix = f"levels.{level}.downsample."
            shapes[prefix + "reduction.weight"] = (2 * c, c, 3, 3)
            shapes |= {prefix + f"norm.{x}": (2 * c,) for x in ("weight", "bias")}
    shapes |= {"norm.weight": (c,), "norm.bias": (c,)}
    shapes |= {"head.weight": (num_classes, c), "head.bias": (num_classes,)}
    return shapes


def random_nat(*skeleton, **options) -> dict[str, torch.Tensor]:
    """Every tensor random, so that no two can be taken for each other."""
    shapes = nat_shapes(*skeleton, **options)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def converter():
    """The tool as a module."""
    path = ROOT / "tools" / "convert_checkpoint.py"
    spec = importlib.util.spec_from_file_location("tool_convert_checkpoint", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(tmp_path) -> dict[str, Path]:
    """Paths of the small job: a config, its NAT, and what is to be written."""
    paths = {name: tmp_path / name for name in ("config.py", "nat.pth", "out.pth")}
    paths["config.py"].write_text(SMALL_CONFIG)
    torch.save(random_nat(*SMALL, num_classes=7), paths["nat.pth"])
    return {path.stem: path for path in paths.values()}


def convert_small(tool, small) -> dict[str, torch.Tensor]:
    tool("convert_checkpoint", small["nat"], small["out"], "--config", small["config"])
    return torch.load(small["out"], weights_only=True)["state_dict"]


def build(config: Path) -> nn.Module:
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model).eval()


# The family


@pytest.mark.parametrize("variant", NAT)
def test_every_variant_takes_its_nat(variant, converter):
    """Anchors and references start fresh; S and B leave out two blocks at the end."""
    *skeleton, parameters = NAT[variant]
    # One number seen as a tensor of any shape: nothing here takes memory.
    nat = {n: torch.ones(()).expand(s) for n, s in nat_shapes(*skeleton).items()}
    assert sum(value.numel() for value in nat.values()) == parameters
    with torch.device("meta"):
        model = nn.Module()
        model.backbone = SeTformer(variant, out_indices=(3,))
        model.head = nn.Module()
        model.head.fc = nn.Linear(skeleton[0] * 8, 1000)
    targets = dict(model.named_parameters())
    converted, rows = converter.convert(nat, targets)

    fresh = {row.ours for row in rows if row.what == "fresh"}
    assert fresh == {n for n in targets if n.endswith(("anchors", "references"))}
    assert converted.keys() == targets.keys() - fresh
    assert all(converted[name].shape == targets[name].shape for name in converted)
    left_out = {row.nat for row in rows if row.what == "left out"}
    dropped = ("levels.3.blocks.3.", "levels.3.blocks.4.") if skeleton[3] else ()
    assert left_out == {n for n in nat if n.endswith("rpb") or n.startswith(dropped)}

    filled = sum(value.numel() for value in converted.values())
    share = 100 * filled / sum(target.numel() for target in targets.values())
    letter = variant[0].upper()
    docs = (ROOT / "docs" / "experiments.md").read_text()
    assert f"| {letter} | NAT-{letter} | {share:.1f} %" in docs


def test_tiny_computes_what_nat_computes(tool, tmp_path, capsys):
    nat = random_nat(*NAT["tiny"][:4])
    torch.save(nat, tmp_path / "nat.pth")
    config, out = ROOT / "configs" / "setformer_t_in1k.py", tmp_path / "out.pth"
    tool("convert_checkpoint", tmp_path / "nat.pth", "--config", config, out)

    report = capsys.readouterr().out
    model = build(config)
    words = Counter(report.split())
    for name, _ in model.named_parameters():
        assert words[name] == 1
    assert words["levels.2.blocks.17.attn.rpb"] == 1
    for line in (
        "copied     319 tensors,  20,131,816 numbers, 86.7% of the model",
        "adapted     60 tensors,   2,576,064 numbers, 11.1% of the model",
        "fresh       90 tensors,     503,808 numbers,  2.2% of the model",
        "left out    30 tensors,      41,574 numbers\n",
    ):
        assert line in report

    before = {name: value.clone() for name, value in model.named_parameters()}
    load_checkpoint(model, str(out), map_location="cpu")
    kept = {n for n, v in model.named_parameters() if torch.equal(v, before[n])}
    assert kept == {n for n in before if n.endswith(("anchors", "references"))}

    # In float64: sums of hundreds of random terms cancel too well for float32.
    model.double()
    nat = {name: value.double() for name, value in nat.items()}

    def layer(function, name, x, **options):
        return function(x, nat[f"{name}.weight"], nat.get(f"{name}.bias"), **options)

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], nat[f"{name}.weight"], nat[f"{name}.bias"])

    options = dict(stride=2, padding=1)
    images = torch.randn(1, 3, 16, 16).double()
    x = layer(F.conv2d, "patch_embed.proj.0", images, **options)
    x = layer(F.conv2d, "patch_embed.proj.1", x, **options).permute(0, 2, 3, 1)
    x = norm("patch_embed.norm", x)
    torch.testing.assert_close(model.backbone.patch_embed(images), x)

    x = torch.randn(1, 2, 2, 64).double()
    y = layer(
        F.conv2d,
        "levels.0.downsample.reduction",
        x.permute(0, 3, 1, 2),
        **options,
    )
    y = norm("levels.0.downsample.norm", y.permute(0, 2, 3, 1))
    torch.testing.assert_close(model.backbone.stages[0].downsample(x), y)

    x, name = torch.randn(1, 2, 2, 256).double(), "levels.2.blocks.17"
    block = model.backbone.stages[2].blocks[17]
    torch.testing.assert_close(block.norm1(x), norm(f"{name}.norm1", x))
    y = F.gelu(layer(F.linear, f"{name}.mlp.fc1", norm(f"{name}.norm2", x)))
    y = layer(F.linear, f"{name}.mlp.fc2", y)
    torch.testing.assert_close(block.mlp(block.norm2(x)), y)
    values = layer(F.linear, f"{name}.attn.qkv", x)[..., 512:]
    torch.testing.assert_close(block.attn.in_proj(x), values)
    y = layer(F.linear, f"{name}.attn.proj", x)
    torch.testing.assert_close(block.attn.out_proj(x), y)

    x = torch.randn(1, 512).double()
    y = layer(F.linear, "head", norm("norm", x))
    torch.testing.assert_close(model.head.fc(model.backbone.norm3(x)), y)


# What differs from a copy


def test_layer_scales_are_folded_exactly(tool, small):
    weights = convert_small(tool, small)
    nat = torch.load(small["nat"])
    model = build(small["config"])
    model.load_state_dict(weights, strict=False)
    name, block = "levels.2.blocks.1.", model.backbone.stages[2].blocks[1]
    nat = {k.removeprefix(name): v for k, v in nat.items() if k.startswith(name)}
    x = torch.randn(2, 3, 3, 64)
    y = F.linear(x, nat["attn.proj.weight"], nat["attn.proj.bias"])
    torch.testing.assert_close(block.attn.out_proj(x), nat["gamma1"] * y)
    y = F.gelu(F.linear(x, nat["mlp.fc1.weight"], nat["mlp.fc1.bias"]))
    y = F.linear(y, nat["mlp.fc2.weight"], nat["mlp.fc2.bias"])
    torch.testing.assert_close(block.mlp(x), nat["gamma2"] * y, rtol=1e-4, atol=1e-4)


def small_config(**attention) -> str:
    """The small config with something else in the attention slot."""
    return f"{SMALL_CONFIG}model['backbone']['attention'] = {attention}\n"


@pytest.mark.parametrize("mixer", ["Softmax", "Agent", "CosFormer", "Flow", "Sinkhorn"])
def test_queries_keys_and_values_are_copied_bit_for_bit(mixer, tool, small, capsys):
    small["config"].write_text(small_config(type=f"{mixer}Attention"))
    weights = convert_small(tool, small)
    nat = torch.load(small["nat"])
    stages = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
    for (stage, block), x in product(stages, ("weight", "bias")):
        ours = f"backbone.stages.{stage}.blocks.{block}.attn.qkv_proj.{x}"
        theirs = f"levels.{stage}.blocks.{block}.attn.qkv.{x}"
        assert torch.equal(weights[ours], nat[theirs])
    report = capsys.readouterr().out
    assert report.count("values alone") == 0
    assert report.count("copied    backbone.stages.2.blocks.1.attn.qkv_proj.") == 2
    assert weights.keys() == build(small["config"]).state_dict().keys()


def test_softmax_attention_computes_what_nat_computes(tool, small):
    """But for windows and position biases; in float64, for scores are large here."""
    heads = (1, 1, 2, 4)
    small["config"].write_text(
        small_config(type="SoftmaxAttention")
        + f"model['backbone']['arch']['num_heads'] = {heads}\n"
    )
    weights = convert_small(tool, small)
    nat = torch.load(small["nat"])
    model = build(small["config"])
    model.load_state_dict(weights)
    model.double()
    name, x = "levels.2.blocks.1.", torch.randn(2, 3, 3, 64).double()
    nat = {
        k.removeprefix(name): v.double() for k, v in nat.items() if k.startswith(name)
    }
    # The layout is that of NAT's natten/nattencuda.py.
    qkv = F.linear(x, nat["attn.qkv.weight"], nat["attn.qkv.bias"])
    q, k, v = qkv.reshape(2, 9, 3, 2, 32).permute(2, 0, 3, 1, 4)
    y = (q * 32**-0.5 @ k.mT).softmax(-1) @ v
    y = y.transpose(1, 2).reshape(2, 3, 3, 64)
    y = nat["gamma1"] * F.linear(y, nat["attn.proj.weight"], nat["attn.proj.bias"])
    attention = model.backbone.stages[2].blocks[1].attn
    torch.testing.assert_close(attention(x), y, rtol=1e-4, atol=1e-4)


def test_no_mixing_takes_the_values_alone(tool, small):
    small["config"].write_text(small_config(type="NoMixing"))
    weights = convert_small(tool, small)
    values = torch.load(small["nat"])["levels.0.blocks.0.attn.qkv.weight"][32:]
    name = "backbone.stages.0.blocks.0.attn.in_proj.weight"
    assert torch.equal(weights[name], values)


@pytest.mark.parametrize(
    "attention, sentence",
    [
        (
            dict(type="SOFTAttention"),
            r"attn.qkv.weight gives \(16, 16\), but .*in_proj.weight is \(32, 16\)",
        ),
        (
            dict(type="SoftmaxAttention", one_projection=True),
            r"attn.qkv.weight gives \(48, 16\), but .*qkv_proj.weight is \(16, 16\)",
        ),
    ],
)
def test_projections_of_another_shape_are_refused(attention, sentence, tool, small):
    small["config"].write_text(small_config(**attention))
    with pytest.raises(UserError, match=sentence):
        convert_small(tool, small)
    assert not small["out"].exists()


def test_the_backbone_of_a_detector(tool, small, capsys):
    """A prefix, a norm a stage, no head of classes, and a neck that nobody needs."""
    nat = random_nat(*SMALL)
    nat = {f"backbone.{n}": v for n, v in nat.items() if "head." not in n}
    for x in ("weight", "bias"):
        nat[f"backbone.norm3.{x}"] = nat.pop(f"backbone.norm.{x}")
        nat[f"backbone.norm0.{x}"] = torch.randn(16)
    nat["neck.conv.weight"] = torch.randn(3)
    torch.save(dict(state_dict=nat, meta=dict(CLASSES=("cat",))), small["nat"])
    weights = convert_small(tool, small)
    name = "backbone.norm3.weight"
    assert torch.equal(weights[name], nat[name])
    assert not any(name.startswith("head") for name in weights)
    report = capsys.readouterr().out
    assert "left out  - " in report and "neck.conv.weight" in report


def test_a_dense_model_takes_the_norms_that_there_are(converter):
    nat = random_nat(*SMALL)
    model = nn.Module()
    model.backbone = SeTformer(SMALL_ARCH)
    converted, _ = converter.convert(nat, dict(model.named_parameters()))
    assert torch.equal(converted["backbone.norm3.bias"], nat["norm.bias"])
    assert not any(f"backbone.norm{i}.bias" in converted for i in range(3))


def test_the_head_for_other_classes_starts_fresh(tool, small):
    torch.save(random_nat(*SMALL, num_classes=1000), small["nat"])
    weights = convert_small(tool, small)
    assert "backbone.norm3.weight" in weights
    assert not any(name.startswith("head.") for name in weights)


def test_the_file_holds_no_more_than_its_tensors(tool, small):
    """A third of a tensor, stored as a view, would take the whole tensor along."""
    weights = convert_small(tool, small)
    for value in weights.values():
        assert value.untyped_storage().nbytes() == 4 * value.numel()


def test_who_takes_the_result(tool, small):
    """Training starts from it; testing and resuming say what is missing."""
    convert_small(tool, small)
    path = str(small["out"])
    init_cfg = dict(type="Pretrained", checkpoint=path, prefix="backbone.")
    require_pretrained_weights(Config(dict(model=dict(init_cfg=init_cfg))))
    with pytest.raises(UserError, match="15 parameters are missing.*anchors"):
        load_fitting_weights(build(small["config"]), path)
    with pytest.raises(UserError, match="no state of a training"):
        require_training_state(path)


# Refusals


class Code:
    """What unpickling would run."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def changed(**tensors) -> dict:
    nat = random_nat(*SMALL)
    for name, change in tensors.items():
        name = name.replace("__", ".")
        nat[name] = change(nat[name])
    return nat


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def flipped() -> bytes:
    """One bit of one number is another."""
    nat = changed()
    content = bytearray(saved(nat))
    content[content.index(nat["head.weight"].numpy().tobytes())] ^= 1
    return bytes(content)


BIAS = "levels__2__blocks__1__mlp__fc1__bias"
REFUSED = {
    "empty": (lambda: b"", "not a checkpoint of weights, or is damaged"),
    "text": (lambda: b"<html>Not found</html>", "it is a web page"),
    "truncated": (lambda: saved(changed())[:-100_000], "or is damaged"),
    "corrupt": (flipped, "the checksum of .* is wrong"),
    "pickled code": (
        lambda: pickle.dumps(Code(), protocol=2),
        "not a checkpoint of weights",
    ),
    "code in it": (lambda: saved({**changed(), "x": Code()}), "holds a .*mkdir"),
    "another network": (
        lambda: saved(nn.Sequential(nn.Linear(2, 2)).state_dict()),
        "not a checkpoint of NAT: it has no tensor patch_embed.proj.1.weight, its "
        "first is 0.weight",
    ),
    "no tensors": (lambda: saved(dict(state_dict=3)), "not a checkpoint of weights"),
    "other channels": (
        lambda: saved(random_nat(32, *SMALL[1:])),
        "NAT of 32 channels, MLP ratio 2 and depths 1, 1, 2, 3 against SeTformer of "
        "16 channels, MLP ratio 2 and depths 1, 1, 2, 1",
    ),
    "other MLPs": (lambda: saved(random_nat(16, 3, (1, 1, 2, 1), False)), "ratio 3"),
    "deeper inside": (
        lambda: saved(random_nat(16, 2, (1, 1, 3, 1), False)),
        "depths 1, 1, 3, 1 against",
    ),
    "too shallow": (
        lambda: saved(random_nat(16, 2, (1, 1, 1, 3), False)),
        "depths 1, 1, 1, 3 against",
    ),
    "a tensor lacks": (
        lambda: saved(
            {n: v for n, v in changed().items() if "2.blocks.1.norm2" not in n}
        ),
        "it lacks levels.2.blocks.1.norm2.weight",
    ),
    "other shape": (
        lambda: saved(changed(**{BIAS: lambda x: x[1:]})),
        r"levels.2.blocks.1.mlp.fc1.bias gives \(127,\), but .* is \(128,\)",
    ),
    "not finite": (
        lambda: saved(changed(**{BIAS: lambda x: x / 0})),
        "NaN or infinity in 1 tensors, the first is levels.2.blocks.1.mlp.fc1.bias",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case, tool, small, monkeypatch):
    monkeypatch.chdir(small["nat"].parent)
    content, sentence = REFUSED[case]
    small["nat"].write_bytes(content())
    with pytest.raises(UserError, match=sentence) as error:
        convert_small(tool, small)
    assert "\n" not in str(error.value) and str(small["nat"]) in str(error.value)
    assert {path.name for path in Path().iterdir()} == {"config.py", "nat.pth"}


def test_other_mistakes_end_with_a_sentence(tool, small):
    folder = small["nat"].parent
    with pytest.raises(UserError, match="is a folder"):
        convert_small(tool, {**small, "out": folder})
    with pytest.raises(UserError, match="none.pth does not exist"):
        convert_small(tool, {**small, "nat": folder / "none.pth"})
    with pytest.raises(UserError, match="none.py does not exist"):
        convert_small(tool, {**small, "config": folder / "none.py"})
    small["config"].write_text(f"{SMALL_CONFIG}model['backbone']['mix_ffn'] = True\n")
    with pytest.raises(UserError, match="has mix_ffn=True, and NAT's MLPs have no"):
        convert_small(tool, small)
    small["config"].write_text("custom_imports = dict(imports=['setformer_mm'])")
    with pytest.raises(UserError, match="no model with a SeTformer"):
        convert_small(tool, small)
    assert not small["out"].exists()
