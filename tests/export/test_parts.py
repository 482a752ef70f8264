"""The part of a model that is exported computes what the model does."""

import pytest
import torch
from torch import nn

from setformer_mm.export import deployed_part
from setformer_mm.export.parts import _AnySizePool
from setformer_mm.models import SeTAttention

from .toys import TRACED, classifier, detector, pictures, segmentor


def part_of(model: nn.Module):
    return deployed_part(model, torch.randn(TRACED))


@torch.no_grad()
def test_classifiers():
    model = classifier()
    part = part_of(model)
    assert part[1:] == ("classification", ("logits",))
    for images in pictures():
        torch.testing.assert_close(part.module(images)[0], model(images))


@torch.no_grad()
def test_segmentors():
    model = segmentor()
    part = part_of(model)
    assert part[1:] == ("segmentation", ("logits",))
    for images in pictures():
        size = tuple(images.shape[2:])
        metas = [dict(img_shape=size, ori_shape=size, pad_shape=size)] * len(images)
        expected = model.encode_decode(images, metas)
        torch.testing.assert_close(part.module(images)[0], expected)


@torch.no_grad()
def test_detectors_and_backbones():
    model = detector()
    part = part_of(model)
    assert part[1:] == ("features", ("features_0", "features_1", "features_2"))
    backbone = part_of(model.backbone)
    assert backbone[1:] == ("features", ("features_0", "features_1"))
    for images in pictures():
        features = model.backbone(images)
        torch.testing.assert_close(backbone.module(images), features)
        torch.testing.assert_close(part.module(images), model.neck(features))


def test_timms_classifier():
    pytest.importorskip("timm")
    from setformer_mm.timm import SeTformerClassifier

    model = SeTformerClassifier(
        dict(embed_dims=32, depths=(1, 1), num_heads=(1, 2), mlp_ratio=2), num_classes=3
    ).eval()
    part = part_of(model)
    assert part.task == "classification"
    images = torch.randn(TRACED)
    torch.testing.assert_close(part.module(images)[0], model(images))


def test_the_model_stays_as_it_is_and_its_copy_is_deployed():
    model = classifier().train()
    part = part_of(model)
    assert model.training and not part.module.training
    for owner, is_deployed in ((model, False), (part.module, True)):
        attentions = [m for m in owner.modules() if isinstance(m, SeTAttention)]
        assert len(attentions) == 2
        for attention in attentions:
            assert (attention._deployed_fold is not None) == is_deployed


@torch.no_grad()
def test_a_classifier_without_a_head_is_a_backbone():
    model = classifier()
    model.head = None
    part = part_of(model)
    assert part[1:] == ("features", ("features_0",))
    images = torch.randn(TRACED)
    torch.testing.assert_close(part.module(images), model.extract_feat(images))


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="can be exported, got Linear"):
        part_of(nn.Linear(2, 2))
    cascade = segmentor()
    cascade.decode_head = nn.ModuleList([cascade.decode_head] * 2)
    with pytest.raises(TypeError, match="one decode head .* got 2 in EncoderDecoder"):
        part_of(cascade)
    model = classifier()
    model.head = nn.Identity()
    with pytest.raises(TypeError, match=r"must return tensors .* got \['tuple'\]"):
        part_of(model)


@pytest.mark.parametrize("output_size", [1, (3, 5), 6, (None, 4)])
def test_pools_are_those_of_torch(output_size):
    x = torch.randn(2, 3, 17, 6, dtype=torch.float64)
    expected = nn.AdaptiveAvgPool2d(output_size)(x)
    torch.testing.assert_close(_AnySizePool(output_size)(x), expected)
