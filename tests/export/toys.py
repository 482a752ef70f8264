"""Small models of the host libraries, and pictures of several sizes."""

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

ARCH = dict(embed_dims=32, depths=(1, 1), num_heads=(1, 2), mlp_ratio=2)
BACKBONE = dict(type="SeTformer", arch=ARCH)
TRACED = (2, 3, 32, 40)
# None is the traced one; one has as many pixels in another order.
OTHERS = (1, 3, 40, 32), (3, 3, 45, 70), (2, 3, 64, 33)

CLASSIFIER = dict(
    type="ImageClassifier",
    backbone=BACKBONE | dict(out_indices=(1,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=5, in_channels=64),
)
SEGMENTOR = dict(
    type="EncoderDecoder",
    backbone=BACKBONE,
    decode_head=dict(
        type="UPerHead",
        in_channels=[32, 64],
        in_index=[0, 1],
        pool_scales=(1, 2, 3),
        channels=16,
        num_classes=4,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    test_cfg=dict(mode="whole"),
)


def build(scope: str, model: dict) -> nn.Module:
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model).eval()


def classifier() -> nn.Module:
    return build("mmpretrain", CLASSIFIER)


def segmentor() -> nn.Module:
    return build("mmseg", SEGMENTOR)


def detector() -> nn.Module:
    """Its backbone and neck; heads are no matter."""
    model = nn.Module()
    model.backbone = build("mmdet", BACKBONE)
    fpn = dict(type="FPN", in_channels=[32, 64], out_channels=16, num_outs=3)
    model.neck = build("mmdet", fpn)
    model.rpn_head = nn.Identity()
    return model


def pictures() -> list[Tensor]:
    """Normal ones, of which one is padded."""
    images = [torch.randn(shape) for shape in OTHERS]
    images[1][1, :, 30:] = 0
    return images
