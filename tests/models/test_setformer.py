"""The backbone: sizes, shapes, gradients, modes, loading."""

import copy
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from setformer_mm.models import TOKEN_MIXERS, SeTAttention, SeTformer
from setformer_mm.models import set_attention as attention_module
from setformer_mm.models.architectures import ARCHITECTURES
from setformer_mm.ops.extension import DISABLE_VARIABLE

SMALL = dict(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratio=1.5)
STRIDES = (4, 8, 16, 32)


def build(attention: dict | None = None, **fields) -> SeTformer:
    attention = dict(reference_shape=(2, 3)) | (attention or {})
    return SeTformer(**dict(arch=SMALL, attention=attention) | fields)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def assert_maps(outs, height, width, channels, batch=1):
    assert len(outs) == len(STRIDES)
    for i, (out, stride) in enumerate(zip(outs, STRIDES)):
        side = math.ceil(height / stride), math.ceil(width / stride)
        assert out.shape == (batch, channels * 2**i, *side)
        assert out.is_contiguous()
        assert out.isfinite().all()


def assert_every_parameter_has_a_finite_gradient(model, lone_token=False):
    """Of a lone token in the last stage centring leaves nothing to transport."""
    unused = "norm1", "in_proj", "anchors", "references", "out_proj.weight"
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        in_last = lone_token and name.startswith("stages.3")
        if not (in_last and any(part in name for part in unused)):
            assert parameter.grad.norm() > 0, name


def loss_of(outs):
    return sum((out * torch.randn_like(out)).mean() for out in outs)


@pytest.mark.parametrize(
    "arch, dense, classifier",
    [
        ("mini", 16_180_800, 16_692_904),
        ("tiny", 22_699_584, 23_211_688),
        ("small", 31_874_880, 32_642_536),
        ("base", 56_329_984, 57_353_192),
    ],
)
def test_parameter_counts_are_those_of_the_table(arch, dense, classifier, monkeypatch):
    # Random values take most of the time and do not count.
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda *args, **kwargs: None)
    model = SeTformer(arch)
    assert count(model) == dense
    model = SeTformer(arch, out_indices=(3,))
    assert count(model) + count(nn.Linear(model.embed_dims[3], 1000)) == classifier


@pytest.mark.parametrize(
    "height, width", [(224, 224), (97, 131), (32, 32), (33, 47), (1, 200)]
)
def test_maps_and_gradients_at_any_size(height, width):
    model = build()
    outs = model(torch.randn(2, 3, height, width))
    assert_maps(outs, height, width, 8, batch=2)
    loss_of(outs).backward()
    lone_token = outs[3].shape[2:] == (1, 1)
    assert_every_parameter_has_a_finite_gradient(model, lone_token)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "height, width, with_cp", [(224, 224, False), (97, 131, False), (800, 1333, True)]
)
def test_maps_and_gradients_of_base(height, width, with_cp):
    model = MODELS.build(dict(type="SeTformer", arch="base", with_cp=with_cp))
    outs = model(torch.randn(1, 3, height, width))
    assert_maps(outs, height, width, 128)
    loss_of(outs).backward()
    assert_every_parameter_has_a_finite_gradient(model)


def test_empty_batch():
    outs = build()(torch.zeros(0, 3, 64, 64))
    assert [out.shape[0] for out in outs] == [0] * 4


def test_recomputed_activations_give_the_same_gradients():
    model = build(drop_path_rate=0.5)
    recomputing = build(drop_path_rate=0.5, with_cp=True)
    recomputing.load_state_dict(model.state_dict())
    images = torch.randn(4, 3, 64, 64)
    for m in (model, recomputing):
        torch.manual_seed(0)  # the same paths are dropped
        sum(out.square().mean() for out in m(images)).backward()
    for a, b in zip(model.parameters(), recomputing.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_recomputation_keeps_less_for_the_backward_pass():
    def saved_bytes(with_cp):
        saved = {}

        def pack(t):
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            outs = build(with_cp=with_cp)(torch.randn(2, 3, 96, 96))
        return sum(saved.values()), outs

    assert saved_bytes(True)[0] < 0.5 * saved_bytes(False)[0]


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_paths_are_dropped_in_training_only(rate):
    model = build(drop_path_rate=rate)
    rates = [block.drop_path.p for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx(torch.linspace(0, rate, 5).tolist())
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        model.eval()
        expected = model(images)
        assert all(torch.equal(a, b) for a, b in zip(model(images), expected))
        model.train()
        outs = model(images)
        assert torch.allclose(outs[0], expected[0]), "the first block is always kept"
        assert torch.allclose(outs[3], expected[3]) == (rate == 0)


def test_blocks_are_residual_branches_after_norms():
    block = build().stages[1].blocks[0]
    x = torch.randn(2, 3, 5, 16)
    y = x + block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.mlp(block.norm2(y)))


def test_attention_fields_are_spread_over_the_stages():
    per_stage = dict(
        reference_shape=((1, 2), (3, 4), [5, 6], (7, 8)),
        return_references=(True, False, True, True),
        epsilon=(0.1, 0.2, 0.3, 0.4),
        num_iters=[1, 2, 3, 4],
        alpha=(1.0, 2.0, 3.0, 4.0),
        tau=(0.1, None, 0.2, None),
    )
    model = build(per_stage)
    once = build(
        dict(reference_shape=[4, 2], epsilon=0.5, num_iters=0, alpha=6.0, tau=None)
    )
    for i in range(4):
        for block, single in zip(model.stages[i].blocks, once.stages[i].blocks):
            for name, values in per_stage.items():
                field = getattr(block.attn, name)
                if name == "return_references":
                    assert (field is not None) == values[i]
                elif name == "reference_shape":
                    assert field == tuple(values[i])
                else:
                    assert field == values[i]
            assert block.attn.references.shape[1] == math.prod(
                per_stage["reference_shape"][i]
            )
            assert single.attn.reference_shape == (4, 2)
            assert single.attn.return_references.shape[1] == 8
            assert (single.attn.epsilon, single.attn.num_iters) == (0.5, 0)
            assert (single.attn.alpha, single.attn.tau) == (6.0, None)


def test_convolutions_in_mlps_are_an_option():
    plain, model = build(), build(mix_ffn=True)
    hidden = [block.mlp[0].out_features for s in plain.stages for block in s.blocks]
    assert count(model) == count(plain) + 10 * sum(hidden)  # 3 x 3 and a bias
    loss_of(model(torch.randn(2, 3, 70, 99))).backward()
    assert_every_parameter_has_a_finite_gradient(model)


def test_head_dimension_of_the_family_is_32():
    for arch in ARCHITECTURES.values():
        for i, heads in enumerate(arch["num_heads"]):
            assert arch["embed_dims"] * 2**i == 32 * heads


@pytest.mark.parametrize("out_indices", [(3,), (1, 3), [0, 2]])
def test_output_stages(out_indices):
    model, everything = build(out_indices=out_indices), build()
    everything.load_state_dict(model.state_dict(), strict=False)
    norms = {name for name, _ in model.named_children() if name.startswith("norm")}
    assert norms == {f"norm{i}" for i in out_indices}
    images = torch.randn(1, 3, 64, 64)
    outs, expected = model(images), everything(images)
    assert len(outs) == len(out_indices)
    for out, i in zip(outs, out_indices):
        torch.testing.assert_close(out, expected[i])


@pytest.mark.parametrize(
    "given, indices",
    [(3, (3,)), (0, (0,)), (-1, (3,)), ((-3, -1), (1, 3)), ((0, -1), (0, 3))],
)
def test_output_stages_by_a_number_and_from_the_last(given, indices):
    assert build(out_indices=given).out_indices == indices


@pytest.mark.parametrize("num_stages", [1, 2, 3, 5])
def test_architectures_of_other_than_four_stages(num_stages):
    arch = dict(
        embed_dims=8,
        depths=[1] * num_stages,
        num_heads=[2**i for i in range(num_stages)],
        mlp_ratio=2,
    )
    model = build(dict(epsilon=[0.1 * (i + 1) for i in range(num_stages)]), arch=arch)
    outs = model(torch.randn(2, 3, 40, 70))
    assert [tuple(out.shape) for out in outs] == [
        (2, 8 * 2**i, -(-40 // 2 ** (i + 2)), -(-70 // 2 ** (i + 2)))
        for i in range(num_stages)
    ]
    loss_of(outs).backward()
    assert_every_parameter_has_a_finite_gradient(model)
    for i, stage in enumerate(model.stages):
        # A pair is one grid for all stages, even where there are two of them.
        assert stage.blocks[0].attn.reference_shape == (2, 3)
        assert stage.blocks[0].attn.epsilon == pytest.approx(0.1 * (i + 1))
    assert model.get_layer_depth("backbone.norm0.bias")[0] == num_stages + 1
    with pytest.raises(ValueError, match=f"in -1..{num_stages}, got {num_stages + 1}"):
        build(arch=arch, frozen_stages=num_stages + 1)


def test_stages_after_the_last_output_are_not_built():
    model = build(out_indices=(1,), frozen_stages=2)
    assert len(model.stages) == 2
    assert model.stages[1].downsample is None
    assert not any(p.requires_grad for p in model.parameters())
    assert model.get_layer_depth("backbone.stages.1.blocks.1.attn.anchors") == (3, 5)
    with pytest.raises(ValueError, match=r"frozen_stages must be in -1..2, got 3"):
        build(out_indices=(1,), frozen_stages=3)


def test_output_norms_are_their_own():
    model = build()
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        before = model(images)
        model.norm1.weight.zero_()
        model.norm1.bias.fill_(3.0)
        after = model(images)
    assert (after[1] == 3).all()
    for i in (0, 2, 3):
        assert torch.equal(after[i], before[i])


def test_averaging_before_the_norm():
    model = build(gap_before_final_norm=True)
    maps = build()
    maps.load_state_dict(model.state_dict())
    for i in range(4):  # so that these are the tokens before the norm
        setattr(maps, f"norm{i}", nn.Identity())
    images = torch.randn(2, 3, 50, 70)
    for i, (vector, tokens) in enumerate(zip(model(images), maps(images))):
        assert vector.shape == (2, 8 * 2**i)
        norm = getattr(model, f"norm{i}")
        torch.testing.assert_close(vector, norm(tokens.mean((1, 2))))


@pytest.mark.parametrize("frozen_stages", range(-1, 5))
def test_frozen_stages(frozen_stages):
    model = build(frozen_stages=frozen_stages, drop_path_rate=0.5)
    frozen = [model.patch_embed] if frozen_stages >= 0 else []
    for i in range(max(frozen_stages, 0)):
        frozen += [model.stages[i], getattr(model, f"norm{i}")]
    inside = {p for module in frozen for p in module.parameters()}
    for parameter in model.parameters():
        assert parameter.requires_grad == (parameter not in inside)
    for mode in (True, False, True):
        assert model.train(mode) is model
        for module in model.modules():
            is_frozen = any(module in set(f.modules()) for f in frozen)
            assert module.training == (mode and not is_frozen)
    outs = model(torch.randn(2, 3, 32, 32))
    if frozen_stages < 4:
        loss_of(outs).backward()
        assert all((p.grad is None) == (p in inside) for p in model.parameters())


def test_train_and_eval_return_self():
    model = build()
    assert model.train() is model and model.training
    assert model.eval() is model and not model.training


def test_evaluation_folds_each_block_once(monkeypatch):
    calls = []
    original = attention_module.fold
    monkeypatch.setattr(
        attention_module, "fold", lambda *args: calls.append(1) or original(*args)
    )
    model = build().eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for _ in range(3):
            model(images)
    assert len(calls) == sum(SMALL["depths"])
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.data.mul_(1.5)
        expected = build().eval()
        expected.load_state_dict(duplicate.state_dict())
        for a, b in zip(duplicate(images), expected(images)):
            torch.testing.assert_close(a, b)


def test_training_folds_each_stage_once(monkeypatch):
    calls = []
    original = attention_module.fold
    monkeypatch.setattr(
        attention_module, "fold", lambda *args: calls.append(1) or original(*args)
    )
    build()(torch.randn(1, 3, 32, 32))
    assert len(calls) == len(SMALL["depths"])


def test_threads_share_a_model():
    """One thread could take away the fold that another one was about to return."""
    model = build().eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)

    def serve(index: int) -> None:
        mixers = [m for m in model.modules() if isinstance(m, SeTAttention)]
        with torch.no_grad():
            for turn in range(20):
                if turn % 4 == index % 4:
                    for mixer in mixers:
                        mixer.drop_fold()
                for out, e in zip(model(images), expected):
                    assert torch.equal(out, e)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(serve, range(8)))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("mixer", sorted(TOKEN_MIXERS.module_dict))
def test_meta_device_knows_shapes(mixer):
    with torch.device("meta"):
        model = SeTformer(SMALL, attention=dict(type=mixer))
        images = torch.empty(2, 3, 40, 64)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outs = model(images)
        assert all(out.is_meta for out in outs)
        shapes = [
            (2, 8 * 2**i, -(-40 // s), -(-64 // s)) for i, s in enumerate(STRIDES)
        ]
        assert [tuple(out.shape) for out in outs] == shapes


@pytest.mark.skipif(
    os.environ.get(DISABLE_VARIABLE) == "1", reason=f"{DISABLE_VARIABLE}=1"
)
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("mode", ["training", "evaluation", "deployed"])
def test_compiles_as_one_graph(mode, backend):
    """Without the extension the reference is compiled, which is left to torch."""
    model = build(drop_path_rate=0.0).train(mode == "training")
    images = torch.randn(2, 3, 40, 64)
    if mode == "deployed":
        model.switch_to_deploy()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.set_grad_enabled(mode == "training"):
        expected, outs = model(images), compiled(images)
        for a, b in zip(outs, expected):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        if mode != "training":
            return
        parameters = list(model.parameters())
        weights = [torch.randn_like(out) for out in outs]
        for a, b in zip(
            torch.autograd.grad(outs, parameters, weights),
            torch.autograd.grad(expected, parameters, weights),
        ):
            assert (a - b).norm() <= 1e-4 * b.norm() + 1e-5


def test_bf16_autocast_stays_close():
    model = build()
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        outs = model(images)
        loss = loss_of(outs)
    loss.backward()
    assert_every_parameter_has_a_finite_gradient(model)
    for out, e in zip(outs, expected):
        assert (out.float() - e).norm() / e.norm() < 0.05


@pytest.mark.parametrize("channels", [1, 4])
def test_input_channels(channels):
    assert_maps(
        build(in_channels=channels)(torch.randn(1, channels, 32, 32)), 32, 32, 8
    )


def save_detector(path, **fields) -> SeTformer:
    """A checkpoint with the backbone under its prefix, beside other weights."""
    model = build(fields)
    state = {f"backbone.{k}": v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=state | {"head.weight": torch.ones(3)}), path)
    return model


def load_backbone(path, **fields) -> SeTformer:
    init = dict(type="Pretrained", checkpoint=str(path), prefix="backbone.")
    attention = dict(reference_shape=(2, 3)) | fields
    model = MODELS.build(
        dict(type="SeTformer", arch=SMALL, init_cfg=init, attention=attention)
    )
    model.init_weights()
    return model


def test_pretrained_weights_under_a_prefix(tmp_path):
    source = save_detector(tmp_path / "weights.pth")
    loaded = load_backbone(tmp_path / "weights.pth")
    state = loaded.state_dict()
    for name, value in source.state_dict().items():
        assert torch.equal(state[name], value), name


def test_pretrained_weights_with_other_references(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(
        attention_module, "print_log", lambda m, **_: messages.append(m)
    )
    source = save_detector(tmp_path / "weights.pth", reference_shape=(3, 3))
    loaded = load_backbone(tmp_path / "weights.pth", reference_shape=(2, 4))
    assert len(messages) == sum(SMALL["depths"])
    line = "stages.1.blocks.1.attn.references resampled from 3x3 to 2x4"
    assert line in messages
    state = source.state_dict()
    for name, parameter in loaded.named_parameters():
        if not name.endswith("references"):
            assert torch.equal(parameter, state[name]), name
    block = loaded.stages[0].blocks[0].attn
    for name in ("references", "return_references"):
        centre = state[f"stages.0.blocks.0.attn.{name}"].mean()
        assert abs(getattr(block, name).mean() - centre) < 0.3
    assert_maps(loaded(torch.randn(1, 3, 32, 32)), 32, 32, 8)


def test_pretrained_weights_with_references_off_a_square_grid(tmp_path):
    save_detector(tmp_path / "weights.pth", reference_shape=(2, 4))
    load_backbone(tmp_path / "weights.pth", reference_shape=(2, 3))
    checkpoint = torch.load(tmp_path / "weights.pth")
    for name in list(checkpoint["state_dict"]):
        if name.endswith("_extra_state"):  # as it was before the grid was stored
            del checkpoint["state_dict"][name]
    torch.save(checkpoint, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="square grid"):
        load_backbone(tmp_path / "weights.pth", centred=False)


@pytest.mark.parametrize("prefix", ["backbone.", "", "model.backbone."])
def test_layer_depth_grows_in_forward_order_and_covers_every_parameter(prefix):
    model = build()
    num_layers = sum(SMALL["depths"]) + 2
    depths = {}
    for name, _ in model.named_parameters():
        depths[name], total = model.get_layer_depth(prefix + name, prefix)
        assert total == num_layers
    assert set(depths.values()) == set(range(num_layers))
    assert depths["patch_embed.conv1.weight"] == depths["patch_embed.norm.bias"] == 0
    for name in ("anchors", "references", "return_references"):
        assert depths[f"stages.0.blocks.0.attn.{name}"] == 1
    assert depths["stages.0.downsample.conv.weight"] == 2
    assert depths["stages.1.blocks.0.norm1.weight"] == 2
    assert depths["stages.1.blocks.1.mlp.0.bias"] == 3
    assert depths["stages.3.blocks.0.attn.out_proj.weight"] == num_layers - 2
    assert depths["norm0.weight"] == depths["norm3.bias"] == num_layers - 1
    if prefix:
        assert model.get_layer_depth("head.weight", prefix)[0] == num_layers - 1


@pytest.mark.parametrize("arch", ["m", "T", "Small", "BASE"])
def test_architectures_by_letter_and_in_any_case(arch):
    name = next(name for name in ARCHITECTURES if name[0] == arch[0].lower())
    with torch.device("meta"):
        model = SeTformer(arch, out_indices=(0,))
    assert model.embed_dims[0] == ARCHITECTURES[name]["embed_dims"]


INVALID = {
    "unknown arch": (
        dict(arch="huge"),
        "arch must be one of mini, tiny, small, base, a first letter of these, or a "
        "dict, got 'huge'",
    ),
    "misspelt arch": (dict(arch="smal"), "got 'smal' (did you mean 'small'?)"),
    "no arch": (dict(arch=3), "arch must be a name or a dict, got 3"),
    "half a block": (
        dict(arch=SMALL | dict(depths=(1, 1.0, 1, 1))),
        "arch['depths'] must hold positive integers, got (1, 1.0, 1, 1)",
    ),
    "half a channel": (dict(arch=SMALL | dict(embed_dims=8.0)), "integer, got 8.0"),
    "stage 3.0": (dict(out_indices=(3.0,)), "-4..-1, got (3.0,)"),
    "stage True": (dict(out_indices=True), "-4..-1, got True"),
    "stage -5": (dict(out_indices=-5), "-4..-1, got -5"),
    "one stage twice": (dict(out_indices=(3, -1)), "-4..-1, got (3, -1)"),
    "frozen 1.0": (dict(frozen_stages=1.0), "must be in -1..4, got 1.0"),
    "unknown field": (
        dict(attention=dict(epsilom=0.1)),
        "got 'epsilom' (did you mean 'epsilon'?)",
    ),
    "misspelt mixer": (
        dict(attention=dict(type="SoftMaxAtention")),
        "got 'SoftMaxAtention' (did you mean 'SoftmaxAttention'?)",
    ),
    "missing key": (
        dict(arch={k: SMALL[k] for k in ("embed_dims", "depths", "num_heads")}),
        "arch must have exactly the keys ['depths', 'embed_dims', 'mlp_ratio', "
        "'num_heads'], got ['depths', 'embed_dims', 'num_heads']",
    ),
    "unknown key": (dict(arch=SMALL | dict(window=7)), "got ['depths', 'embed_dims', "),
    "three depths": (
        dict(arch=SMALL | dict(depths=(1, 1, 1))),
        "arch['depths'] and arch['num_heads'] must hold one number a stage each, got "
        "(1, 1, 1) and (1, 2, 4, 8)",
    ),
    "no blocks": (dict(arch=SMALL | dict(depths=(1, 0, 1, 1))), "positive integers"),
    "no stages": (
        dict(arch=SMALL | dict(depths=(), num_heads=())),
        "arch['depths'] must hold one number a stage, got ()",
    ),
    "five heads": (
        dict(arch=SMALL | dict(num_heads=(1, 2, 4, 8, 16))),
        "got (1, 2, 1, 1) and (1, 2, 4, 8, 16)",
    ),
    "indivisible": (
        dict(arch=SMALL | dict(num_heads=(3, 2, 4, 8))),
        "embed_dims must be divisible by num_heads, got 8 and 3",
    ),
    "stage 4": (
        dict(out_indices=(3, 4)),
        "out_indices must be rising numbers in 0..3, or counted from the last stage in "
        "-4..-1, got (3, 4)",
    ),
    "no stage": (
        dict(out_indices=()),
        "-4..-1, got ()",
    ),
    "stages out of order": (
        dict(out_indices=(3, 0)),
        "-4..-1, got (3, 0)",
    ),
    "epsilon of a stage": (
        dict(attention=dict(epsilon=(0.1, 0.1, 0.0, 0.1))),
        "epsilon must be a number in [1e-6, 1e6], got 0.0",
    ),
    "unknown backend": (dict(attention=dict(backend="fast")), "got 'fast'"),
    "frozen 5": (dict(frozen_stages=5), "frozen_stages must be in -1..4, got 5"),
    "drop all": (
        dict(drop_path_rate=1.0),
        "drop_path_rate must be in [0, 1), got 1.0",
    ),
    "no drop path": (
        dict(drop_path_rate=None),
        "drop_path_rate must be in [0, 1), got None",
    ),
    "ratio in words": (
        dict(arch=SMALL | dict(mlp_ratio="3")),
        "mlp_ratio must be a number that leaves the MLP a channel, got '3'",
    ),
    "convolutions in words": (
        dict(mix_ffn="no"),
        "mix_ffn must be True or False, got 'no'",
    ),
    "three epsilons": (
        dict(attention=dict(epsilon=(0.1, 0.1, 0.1))),
        "epsilon must be a number in [1e-6, 1e6], got (0.1, 0.1, 0.1)",
    ),
    "three grids": (
        dict(attention=dict(reference_shape=((8, 8), (8, 8), (8, 8)))),
        "pair of positive integers, or for sequences (M,), got ((8, 8), (8, 8)",
    ),
    "grid of four sides": (
        dict(attention=dict(reference_shape=(8, 8, 8, 7))),
        "pair of positive integers, or for sequences (M,), got (8, 8, 8, 7)",
    ),
    "empty grid": (
        dict(attention=dict(reference_shape=(8, 0))),
        "pair of positive integers, or for sequences (M,), got (8, 0)",
    ),
    "no such mixer": (
        dict(attention=dict(type="Attention")),
        "the type of attention must be one of AgentAttention, CosFormerAttention, ",
    ),
    "field of another mixer": (
        dict(attention=dict(type="SoftmaxAttention")),
        "got 'reference_shape'",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_are_refused(case):
    fields, message = INVALID[case]
    with pytest.raises(ValueError) as info:
        build(**fields)
    assert message in str(info.value)


def test_attention_is_a_dict():
    with pytest.raises(ValueError, match=r"attention must be dict\(type=.* got 'Soft"):
        SeTformer(SMALL, attention="SoftmaxAttention")


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 3, 0, 32)])
def test_what_is_no_batch_of_images(shape):
    with pytest.raises(ValueError, match=r"x must be \(B, in_channels, H, W\) with"):
        build()(torch.zeros(shape))
