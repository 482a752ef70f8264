"""How a config uses the backbone is looked at before anything is built."""

import pytest
from mmengine.config import Config

from setformer_mm import configs
from setformer_mm.utils.errors import UserError
from toolkit.backbone_use import require_known_constructor, unused_outputs


@pytest.mark.parametrize("name", configs.names())
def test_our_configs_use_all_outputs(name):
    cfg = Config.fromfile(configs.path(name))
    assert unused_outputs(cfg) is None
    require_known_constructor(cfg)


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


def test_constructors_that_do_not_know_the_layers():
    name = "mmseg.LearningRateDecayOptimizerConstructor"
    cfg = model()
    cfg.optim_wrapper = dict(constructor=name)
    with pytest.raises(UserError, match=f"{name} .*='SeTformerLayerDecayConstructor'"):
        require_known_constructor(cfg)
    cfg.model.backbone.type = "ConvNeXt"
    require_known_constructor(cfg)
