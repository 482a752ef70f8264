"""Sliding windows and test-time augmentation of padded pictures, as mmseg runs them.

mmseg's batches are of pictures of one size, which ``size_divisor`` pads.
"""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.models import EncoderDecoder, SegTTAModel
from mmseg.structures import SegDataSample
from torch import Tensor

from .test_setformer import SMALL

HEIGHT, WIDTH = 96, 64
DIVISOR = 224
EDGE = 4  # pixels between a picture's last tokens and its edge: blended with padding


@pytest.fixture(params=["detect", "ignore"])
def padding(request) -> str:
    return request.param


def segmentor(mode: dict, padding: str, divisor: int | None) -> EncoderDecoder:
    init_default_scope("mmseg")
    torch.manual_seed(0)
    return EncoderDecoder(
        backbone=dict(
            type="SeTformer",
            arch=SMALL,
            attention=dict(reference_shape=(2, 3)),
            padding=padding,
        ),
        # One 3 x 3 convolution: at a picture's edge it meets zeros, padded or not.
        decode_head=dict(
            type="FCNHead",
            in_channels=8,
            in_index=0,
            channels=8,
            num_convs=1,
            num_classes=5,
            concat_input=False,
            align_corners=False,
            loss_decode=dict(type="CrossEntropyLoss"),
        ),
        data_preprocessor=dict(
            type="SegDataPreProcessor",
            test_cfg=dict(size_divisor=divisor) if divisor else None,
        ),
        test_cfg=ConfigDict(mode),
    ).eval()


def samples_of(images: Tensor, **meta) -> dict:
    samples = []
    for image in images:
        size = tuple(image.shape[1:])
        meta = dict(meta, img_path="", img_shape=size, ori_shape=size)
        sample = SegDataSample(metainfo=meta)
        samples.append(sample)
    return dict(inputs=list(images), data_samples=samples)


def inside(values: Tensor) -> Tensor:
    return values[..., :-EDGE, :-EDGE]


def check(is_same: bool, padding: str) -> None:
    """Same as alone if padding is detected; otherwise this test would prove nothing."""
    assert is_same == (padding == "detect")


@torch.no_grad()
def test_sliding_windows(padding):
    """Windows that hold a part of a picture, or nothing but padding."""
    crop, stride = (128, 128), (128, 32)
    mode = dict(mode="slide", crop_size=crop, stride=stride)
    model = segmentor(mode, padding, DIVISOR)
    images = torch.randn(2, 3, HEIGHT, WIDTH)
    padded = [found.seg_logits.data for found in model.test_step(samples_of(images))]

    expected, count = torch.zeros(2, 5, HEIGHT, WIDTH), torch.zeros(WIDTH)
    for left in range(0, WIDTH, stride[1]):
        window = images[..., left:]
        meta = dict(img_shape=tuple(window.shape[2:]))
        expected[..., left:] += model.encode_decode(window, [meta])
        count[left:] += 1
    padded, expected = inside(torch.stack(padded)), inside(expected / count)
    check(torch.allclose(padded, expected, rtol=1e-4, atol=1e-5), padding)


@torch.no_grad()
def test_test_time_augmentation(padding):
    images = torch.randn(16, 3, HEIGHT, WIDTH)  # for some label to be on edge
    plain = samples_of(images, flip=False, flip_direction=None)
    mirrored = samples_of(images.flip(3), flip=True, flip_direction="horizontal")
    views = {key: [plain[key], mirrored[key]] for key in plain}

    labels = []
    for divisor in (DIVISOR, None):
        model = segmentor(dict(mode="whole"), padding, divisor)
        found = SegTTAModel(module=model).eval().test_step(copy.deepcopy(views))
        maps = torch.cat([sample.pred_sem_seg.data for sample in found])
        labels.append(inside(maps)[..., EDGE:])
    check(torch.equal(*labels), padding)
