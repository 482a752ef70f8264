"""The checks that timm's own test suite makes of every model, on this family.

They are those of its ``tests/test_models.py``, made through timm's public interface, at
small sizes. TorchScript is not promised: torch has given it up for ``torch.export``.
"""

import math

import pytest
import torch
from torchvision.models.feature_extraction import (
    NodePathTracer,
    create_feature_extractor,
    get_graph_node_names,
)

pytest.importorskip("timm")
import timm
from timm.models import FeatureInfo, get_notrace_functions, get_notrace_modules

import setformer_mm.timm  # noqa: F401  registers the models

MODELS = [f"setformer_{name}" for name in ("mini", "tiny", "small", "base")]
SIZE = 64
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def without_random_weights(monkeypatch):
    """They take most of the time of a large model; a few values do as well."""

    def fill(tensor, mean=0.0, std=1.0, *_, **__):
        with torch.no_grad():
            values = torch.randn(1009) * std + mean
            repeats = -(-tensor.numel() // len(values))
            return tensor.copy_(
                values.repeat(repeats)[: tensor.numel()].view_as(tensor)
            )

    monkeypatch.setattr(torch.nn.init, "trunc_normal_", fill)


def create(name, **fields):
    return timm.create_model(name, **fields)


def images(batch=1, size=SIZE):
    return torch.randn(batch, 3, size, size)


def test_the_family_is_listed():
    assert set(timm.list_models("setformer_*")) >= set(MODELS)
    assert set(MODELS) <= set(timm.list_models(module="setformer"))


@every_model
def test_forward_and_checkpointing(name):
    model = create(name).eval()
    inputs = images()
    outputs = model(inputs)
    assert outputs.shape == (1, 1000)
    assert outputs.isfinite().all()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(inputs), outputs, rtol=1e-4, atol=1e-5)


@every_model
def test_backward(name):
    model = create(name, num_classes=42).train()
    outputs = model(images(2))
    assert outputs.shape == (2, 42)
    assert outputs.isfinite().all()
    outputs.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@every_model
def test_default_cfg(name):
    model = create(name).eval()
    assert model.num_classes == 1000
    cfg = model.default_cfg
    assert cfg["input_size"] == (3, 224, 224)
    side = SIZE // 32
    weights = model.state_dict()
    assert f"{cfg['classifier']}.weight" in weights
    assert f"{cfg['first_conv']}.weight" in weights
    inputs = images()
    with torch.no_grad():
        features = model.forward_features(inputs)
        assert features.shape == (1, model.num_features, side, side)
        pre_logits = model.forward_head(features, pre_logits=True)
        assert pre_logits.shape == (1, model.head_hidden_size)

        model.reset_classifier(0)
        assert model.num_classes == 0
        torch.testing.assert_close(model(inputs), pre_logits)
        model.reset_classifier(0, "")
        torch.testing.assert_close(model(inputs), features)
        model.reset_classifier(5, "avg")
        assert model(inputs).shape == (1, 5)
    assert model.get_classifier().out_features == 5


@every_model
def test_no_classifier_and_no_pooling_from_the_start(name):
    model = create(name, num_classes=0, global_pool="").eval()
    assert model(images()).shape == (1, model.num_features, SIZE // 32, SIZE // 32)


def test_unpooled_features_have_the_size_of_the_cfg():
    model = create("setformer_mini").eval()
    with torch.no_grad():
        features = model.forward_features(images(size=224))
    assert features.shape[2:] == model.default_cfg["pool_size"]


@pytest.mark.parametrize(
    "name, chosen, stages",
    [(name, {}, (0, 1, 2, 3)) for name in MODELS]
    + [
        ("setformer_mini", dict(out_indices=(0, 2)), (0, 2)),
        ("setformer_mini", dict(out_indices=(-1,)), (3,)),
        ("setformer_mini", dict(out_indices=2), (2, 3)),  # timm: the last two
    ],
)
def test_features_only(name, chosen, stages):
    model = create(name, features_only=True, **chosen).eval()
    channels, reductions = model.feature_info.channels(), model.feature_info.reduction()
    assert reductions == [4 * 2**stage for stage in stages]
    outputs = model(images())
    assert len(channels) == len(outputs)
    for c, r, out in zip(channels, reductions, outputs):
        assert out.shape == (1, c, math.ceil(SIZE / r), math.ceil(SIZE / r))
        assert out.isfinite().all()


@every_model
def test_forward_intermediates(name):
    model = create(name).eval()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    inputs = images()
    final, intermediates = model.forward_intermediates(inputs)
    assert len(intermediates) == 4
    for c, r, out in zip(info.channels(), info.reduction(), intermediates):
        assert out.shape == (1, c, math.ceil(SIZE / r), math.ceil(SIZE / r))
        assert out.isfinite().all()
    torch.testing.assert_close(model.forward_features(inputs), final)
    model.set_grad_checkpointing()
    again, _ = model.forward_intermediates(inputs)
    torch.testing.assert_close(again, final, rtol=1e-4, atol=1e-5)


def fx_model(model, train=False):
    kwargs = dict(
        leaf_modules=get_notrace_modules(),
        autowrap_functions=get_notrace_functions(),
        param_shapes_constant=True,
    )
    train_nodes, eval_nodes = get_graph_node_names(model, tracer_kwargs=kwargs)
    train_return_nodes = [train_nodes[-1]]
    if train:
        nodes = list(reversed(NodePathTracer(**kwargs).trace(model).nodes))
        names = [node.name for node in nodes]
        sources = [node.name for node in nodes[0]._input_nodes]
        train_return_nodes = [train_nodes[-names.index(name)] for name in sources]
    return create_feature_extractor(
        model,
        train_return_nodes=train_return_nodes,
        eval_return_nodes=[eval_nodes[-1]],
        tracer_kwargs=kwargs,
    )


@every_model
def test_forward_fx(name):
    model = create(name).eval()
    inputs = images()
    with torch.inference_mode():
        expected = model(inputs)
        (outputs,) = fx_model(model)(inputs).values()
    assert torch.equal(outputs, expected)


@every_model
def test_backward_fx(name):
    model = fx_model(create(name, num_classes=42).train(), train=True)
    (outputs,) = model(images(2)).values()
    assert outputs.shape == (2, 42)
    outputs.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
