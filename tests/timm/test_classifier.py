"""What timm's face of the model shares with the backbone, and what it refuses."""

import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("timm")
import timm
from timm.models import get_model_input_config
from timm.optim import create_optimizer_v2, param_groups_layer_decay

from setformer_mm.models import SeTAttention
from setformer_mm.timm import SeTformerClassifier, from_mm, to_mm

SMALL = dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 4, 8], mlp_ratio=2)
HOST_LIBRARIES = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "cv2")


def build(**fields) -> SeTformerClassifier:
    return SeTformerClassifier(**dict(arch=SMALL, num_classes=5) | fields)


def test_timm_and_torch_are_enough():
    """In a process of its own, where the libraries of OpenMMLab look absent."""
    code = f"""
import sys
for name in {HOST_LIBRARIES}:
    sys.modules[name] = None
import timm, torch, setformer_mm.timm
with torch.device("meta"):  # no time for random weights
    model = timm.create_model("setformer_mini", num_classes=7, features_only=True)
    print([tuple(out.shape) for out in model(torch.empty(1, 3, 40, 64))])
from setformer_mm.timm import SeTformerClassifier
attention = dict(reference_shape=(2, 3))
source = SeTformerClassifier({SMALL}, attention=attention).state_dict()
SeTformerClassifier({SMALL}).load_state_dict(source)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    shapes = [(1, 64 * 2**i, -(-40 // 2 ** (i + 2)), 64 >> i + 2) for i in range(4)]
    assert shown.stdout.strip() == str(shapes)


@pytest.mark.parametrize(
    ("size", "mix_ffn"), [((64, 64), False), ((33, 95), True), ((1, 200), False)]
)
def test_logits_are_those_of_mmpretrain(size, mix_ffn):
    models = pytest.importorskip("mmpretrain.models")
    pytest.importorskip("mmengine.registry").init_default_scope("mmpretrain")
    there = models.ImageClassifier(
        dict(type="SeTformer", arch=SMALL, out_indices=-1, mix_ffn=mix_ffn),
        neck=dict(type="mmpretrain.GlobalAveragePooling"),
        head=dict(type="mmpretrain.LinearClsHead", num_classes=5, in_channels=64),
        data_preprocessor=dict(type="mmpretrain.ClsDataPreprocessor"),
    ).eval()
    here = build(mix_ffn=mix_ffn).eval()
    images = torch.randn(2, 3, *size)
    assert here.load_state_dict(from_mm(there.state_dict())).missing_keys == []
    with torch.no_grad():
        torch.testing.assert_close(here(images), there(images))
    nn.init.normal_(here.norm.bias)
    there.load_state_dict(to_mm(here.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(here(images), there(images))


def test_weights_of_a_detector_and_of_a_backbone_alone():
    backbone = pytest.importorskip("setformer_mm.models.setformer").SeTformer(SMALL)
    weights = backbone.state_dict()
    under_prefix = {f"backbone.{name}": value for name, value in weights.items()}
    detector = under_prefix | {"neck.conv.weight": torch.ones(1), "bbox_head.x": 1}
    here = build(num_classes=0)
    for state_dict in (weights, detector, dict(state_dict=detector, meta={})):
        here.load_state_dict(from_mm(state_dict))
        assert torch.equal(here.norm.weight, backbone.norm3.weight)
    assert from_mm(here.state_dict()).keys() == here.state_dict().keys()
    images = torch.randn(1, 3, 64, 64)
    here.eval(), backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(here.forward_features(images), backbone(images)[3])


def test_create_model_takes_a_checkpoint_of_mmpretrain(tmp_path):
    path = tmp_path / "published.pth"
    source = build(arch="mini", num_classes=10)
    torch.save(dict(meta={}, state_dict=to_mm(source.state_dict())), path)
    overlay = dict(file=str(path), num_classes=10)
    model = timm.create_model(
        "setformer_mini", pretrained=True, pretrained_cfg_overlay=overlay
    )
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    fewer = timm.create_model(
        "setformer_mini",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        num_classes=3,
        in_chans=1,
    )
    assert fewer.head.fc.out_features == 3
    stem = source.patch_embed.conv1.weight.sum(1, keepdim=True)
    torch.testing.assert_close(fewer.patch_embed.conv1.weight, stem)


def test_layer_decay_is_that_of_the_constructor():
    backbone = pytest.importorskip("setformer_mm.models.setformer").SeTformer(SMALL)
    model = build()
    groups = param_groups_layer_decay(
        model, 0.05, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay()
    )
    scales = {
        p: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]
    }
    for name, parameter in model.named_parameters():
        layer, num_layers = backbone.get_layer_depth(f"backbone.{name}")
        exempt = parameter.ndim == 1 or name.endswith(("anchors", "references"))
        expected = 0.5 ** (num_layers - 1 - layer), 0.0 if exempt else 0.05
        assert scales[parameter] == pytest.approx(expected), name
    coarse = model.group_matcher(coarse=True)
    assert [
        coarse(name)
        for name in (
            "patch_embed.conv1.bias",
            "stages.0.blocks.0.norm1.bias",
            "stages.0.downsample.norm.bias",
            "stages.1.blocks.1.norm1.bias",
            "stages.3.blocks.0.norm1.bias",
            "norm.bias",
            "head.fc.bias",
        )
    ] == [0, 1, 2, 2, 4, 5, 5]


def test_optimiser_of_timm_exempts_points_from_weight_decay():
    model = build()
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1)
    decays = {
        p: group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    attention = next(m for m in model.modules() if isinstance(m, SeTAttention))
    for name in ("anchors", "references", "return_references"):
        assert decays[getattr(attention, name)] == 0
    assert decays[attention.in_proj.weight] == 0.1


def test_nominal_size():
    with torch.device("meta"):
        model = timm.create_model("setformer_mini", img_size=96)
        assert model(torch.empty(1, 3, 40, 56)).shape == (1, 1000)
    assert get_model_input_config(model)["input_size"] == (3, 96, 96)


def test_intermediates_stop_early_and_take_the_norm():
    model = build().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        final, every = model.forward_intermediates(images, norm=True)
        assert torch.equal(every[3], final)
        early, (first,) = model.forward_intermediates(images, [0], stop_early=True)
        assert torch.equal(first, every[0]) and torch.equal(early, every[0])
        kept = model.prune_intermediate_layers([0, 2])
        assert kept == [0, 2] and len(model.stages) == 3
        assert model.stages[2].downsample is None
        assert torch.equal(model(images), every[2])
        assert model.num_features == every[2].shape[1]


def test_refusals():
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        build().forward_intermediates(torch.randn(1, 3, 32, 32), output_fmt="NLC")
    for chosen in (dict(feature_cls="hook"), dict(feature_cfg=dict(feature_cls="fx"))):
        with pytest.raises(ValueError, match="feature_cls must be 'getter'"):
            timm.create_model("setformer_mini", features_only=True, **chosen)


def test_deployed_model_is_the_same():
    model = build().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        model.switch_to_deploy()
        torch.testing.assert_close(model(images), expected)


def test_committed_weights(tmp_path):
    """What timm's suite checks of models with weights, and the logits of mmpretrain."""
    mmpretrain = pytest.importorskip("setformer_mm.mmpretrain")
    from mmpretrain import get_model

    assert mmpretrain and timm.is_model_pretrained("setformer_digits")
    model = timm.create_model("setformer_digits", pretrained=True).eval()
    images = torch.randn(2, 3, *model.default_cfg["input_size"][1:])
    with torch.no_grad():
        features = model.forward_features(images)
        assert features.shape[2:] == model.default_cfg["pool_size"]
        there = get_model("setformer_digits", pretrained=True)
        torch.testing.assert_close(model(images), there(images))
    for fields in (dict(num_classes=5), dict(num_classes=0), dict(features_only=True)):
        timm.create_model("setformer_digits", pretrained=True, in_chans=1, **fields)
