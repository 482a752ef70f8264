"""How a config uses the backbone is looked at before anything is built."""

import pytest
from mmengine.config import Config

from setformer_mm import configs
from setformer_mm.utils.errors import UserError
from toolkit.backbone_use import (
    require_fitting_widths,
    require_known_constructor,
    unused_outputs,
)


@pytest.mark.parametrize("name", configs.names())
def test_our_configs_use_all_outputs(name):
    cfg = Config.fromfile(configs.path(name))
    assert unused_outputs(cfg) is None
    require_known_constructor(cfg)
    require_fitting_widths(cfg)


def model(**fields) -> Config:
    return Config(dict(model=dict(backbone=dict(type="SeTformer")) | fields))


@pytest.mark.parametrize(
    "cfg, unused, kept",
    [
        (model(neck=dict(type="FPN", start_level=1)), [0], (1, 2, 3)),
        (model(neck=dict(type="FPN", start_level=0, end_level=2)), [3], (0, 1, 2)),
        (
            model(
                decode_head=dict(type="PSPHead", in_index=3),
                auxiliary_head=[dict(type="FCNHead", in_index=2)],
            ),
            [0, 1],
            (2, 3),
        ),
        (model(decode_head=dict(type="FCNHead")), [0, 1, 2], (3,)),
        (
            model(
                backbone=dict(type="setformer_mm.SeTformer", out_indices=(1, 3)),
                head=dict(type="LinearClsHead"),
            ),
            [1],
            (3,),
        ),
    ],
)
def test_outputs_without_a_use(cfg, unused, kept):
    sentence = unused_outputs(cfg)
    assert f"stages {unused} of the backbone" in sentence
    assert f"model.backbone.out_indices={kept}" in sentence


@pytest.mark.parametrize(
    "cfg",
    [
        model(neck=dict(type="FPN")),
        model(neck=dict(type="FPN", start_level=0)),
        model(neck=dict(type="ChannelMapper")),
        model(backbone=dict(type="ResNet"), neck=dict(type="FPN", start_level=1)),
        model(decode_head=dict(type="UPerHead", in_index=[0, 1, 2, 3])),
        model(decode_head=[dict(in_index=(0, 1)), dict(in_index=(2, -1))]),
        model(head=dict(type="OneOfTheUsers")),
        Config(dict()),
    ],
)
def test_outputs_that_are_used_or_not_known(cfg):
    assert unused_outputs(cfg) is None


@pytest.mark.parametrize(
    "cfg, sentence",
    [
        (
            model(neck=dict(type="FPN", in_channels=[256, 512, 1024, 2048])),
            r"model.neck.in_channels must be \[64, 128, 256, 512\], .* got \[256, 5",
        ),
        (
            model(
                backbone=dict(type="SeTformer", arch="small", out_indices=(1, 3)),
                neck=dict(type="FPN", in_channels=[96, 192, 384, 768]),
            ),
            r"must be \[192, 768\], what the backbone's outputs \(1, 3\) have",
        ),
        (
            model(
                decode_head=dict(
                    in_index=[0, 1, 2, 3], in_channels=[64, 128, 256, 512]
                ),
                auxiliary_head=[dict(in_index=-2, in_channels=1024)],
            ),
            r"model.auxiliary_head\[0\].in_channels must be 256, .* got 1024",
        ),
        (
            model(decode_head=dict(in_index=[2, 3], in_channels=[64, 128])),
            r"model.decode_head.in_channels must be \[256, 512\]",
        ),
        (
            model(
                neck=dict(type="GlobalAveragePooling"),
                head=dict(type="LinearClsHead", in_channels=2048),
            ),
            "model.head.in_channels must be 512",
        ),
    ],
)
def test_widths_that_the_backbone_does_not_have(cfg, sentence):
    with pytest.raises(UserError, match=sentence):
        require_fitting_widths(cfg)


@pytest.mark.parametrize(
    "cfg",
    [
        model(neck=dict(type="Own", in_channels=7)),
        model(neck=dict(type="Own"), head=dict(type="LinearClsHead", in_channels=7)),
        model(decode_head=dict(in_index=[0, 9], in_channels=[1, 2])),
        model(backbone=dict(type="ResNet"), neck=dict(in_channels=[7])),
        Config(dict()),
    ],
)
def test_widths_that_cannot_be_told(cfg):
    require_fitting_widths(cfg)


def test_constructors_that_do_not_know_the_layers():
    name = "mmseg.LearningRateDecayOptimizerConstructor"
    cfg = model()
    cfg.optim_wrapper = dict(constructor=name)
    with pytest.raises(UserError, match=f"{name} .*='SeTformerLayerDecayConstructor'"):
        require_known_constructor(cfg)
    cfg.model.backbone.type = "ConvNeXt"
    require_known_constructor(cfg)
