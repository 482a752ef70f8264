"""A picture's features are its own, however far a batch pads it."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from setformer_mm.models import SeTformer, pointwise_linear
from setformer_mm.models.padding import detect_valid_shape, mean_of_tokens, zero_padding

from .test_setformer import SMALL, STRIDES, build

SIZES = (70, 99), (128, 64), (33, 128), (128, 128), (64, 1)
PADDED = 160, 144


def pictures() -> list[torch.Tensor]:
    return [torch.randn(3, *size) for size in SIZES]


def batch_of(images: list[torch.Tensor], size=PADDED) -> torch.Tensor:
    """As host models do: zeros on the right and below."""
    height, width = size
    return torch.stack(
        [
            F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))
            for image in images
        ]
    )


@pytest.mark.parametrize("mode", ["evaluation", "training", "recomputation"])
@pytest.mark.parametrize("mix_ffn", [False, True])
def test_features_and_gradients_are_those_of_the_picture_alone(mode, mix_ffn):
    model = build(with_cp=mode == "recomputation", mix_ffn=mix_ffn).double()
    model.train(mode != "evaluation")
    images = [image.double() for image in pictures()]
    together = model(batch_of(images))
    expected = [model(image[None]) for image in images]
    loss_together, loss_alone = 0, 0
    for index, outs in enumerate(expected):
        for out, padded, stride in zip(outs, together, STRIDES):
            rows, cols = (-(-side // stride) for side in SIZES[index])
            part = padded[index, :, :rows, :cols]
            torch.testing.assert_close(part, out[0], rtol=1e-9, atol=1e-10)
            assert padded[index].count_nonzero() == part.count_nonzero()
            weight = torch.randn_like(part)
            loss_together = loss_together + (part * weight).sum()
            loss_alone = loss_alone + (out[0] * weight).sum()
    parameters = list(model.parameters())
    for actual, e in zip(
        torch.autograd.grad(loss_together, parameters),
        torch.autograd.grad(loss_alone, parameters),
    ):
        torch.testing.assert_close(actual, e, rtol=1e-6, atol=1e-8)


@torch.no_grad()
def test_layers_of_a_batch_may_run_as_convolutions_alone(monkeypatch):
    """Where its tokens are many, and a picture's few: another order of rounding."""
    monkeypatch.setattr(pointwise_linear, "_HAS_SLOW_MKL", True)
    monkeypatch.setattr(pointwise_linear, "_MIN_MULTIPLY_ADDS", 0)
    monkeypatch.setattr(pointwise_linear, "_MIN_TOKENS", 1 + 32 * 32)
    tokens = []  # of layers that are convolutions; those of the stem are wider
    conv2d = F.conv2d

    def noting(x, weight, *args):
        if weight.shape[-1] == 1:
            tokens.append(x[:, 0].numel())
        return conv2d(x, weight, *args)

    monkeypatch.setattr(F, "conv2d", noting)
    model, images = build().eval(), pictures()
    together = model(batch_of(images))
    assert tokens and min(tokens) > 32 * 32
    del tokens[:]
    for index, image in enumerate(images):
        for out, padded, stride in zip(model(image[None]), together, STRIDES):
            rows, cols = (-(-side // stride) for side in SIZES[index])
            part = padded[index, :, :rows, :cols]
            torch.testing.assert_close(part, out[0], rtol=1e-4, atol=1e-5)
    assert not tokens


def test_means_are_over_the_picture():
    model = build(gap_before_final_norm=True).eval()
    images = pictures()
    together = model(batch_of(images))
    for index, image in enumerate(images):
        for out, padded in zip(model(image[None]), together):
            torch.testing.assert_close(padded[index], out[0], rtol=1e-4, atol=1e-5)


def test_padding_may_be_ignored():
    images = pictures()
    detecting = build().eval()
    ignoring = build(padding="ignore").eval()
    ignoring.load_state_dict(detecting.state_dict())
    everything = torch.tensor([PADDED] * len(images))
    batch = batch_of(images)
    for a, b in zip(ignoring(batch), detecting(batch, everything)):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(ignoring(batch)[0][0], detecting(batch)[0][0])


@pytest.mark.parametrize("padding", ["detect", "ignore"])
def test_a_given_valid_shape_holds_whatever_is_padded(padding):
    model = build(padding=padding).eval()
    images = pictures()
    valid = torch.tensor(SIZES)
    noise = batch_of(images) + torch.randn(len(images), 3, *PADDED)
    for index, image in enumerate(images):
        noise[index, :, : image.shape[1], : image.shape[2]] = image
    expected = build(padding="detect").eval()
    expected.load_state_dict(model.state_dict())
    for a, b in zip(model(noise, valid), expected(batch_of(images))):
        torch.testing.assert_close(a, b)


def test_detection():
    images = pictures()
    assert detect_valid_shape(batch_of(images)).tolist() == [list(s) for s in SIZES]
    # Zeros inside, and in some channels, are picture.
    image = torch.zeros(1, 3, 8, 9)
    image[0, 1, 4, 2] = 1
    assert detect_valid_shape(image).tolist() == [[5, 3]]
    assert detect_valid_shape(torch.zeros(2, 3, 8, 9)).tolist() == [[0, 0]] * 2
    assert detect_valid_shape(torch.ones(2, 3, 8, 9)) is None
    assert detect_valid_shape(torch.ones(2, 3, 8, 9, device="meta")) is None
    with FakeTensorMode():
        assert detect_valid_shape(torch.zeros(2, 3, 8, 9)) is None


def test_a_picture_of_nothing_gives_nothing():
    model = build()
    outs = model(torch.zeros(2, 3, 64, 64))
    assert not any(out.any() for out in outs)
    sum(out.sum() for out in outs).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("wrapped", ["block", "attention"])
def test_wrapped_blocks(wrapped):
    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args):
            return self.inner(*args)

    model = build().eval()
    images = batch_of(pictures())
    expected = model(images)
    block = model.stages[0].blocks[0]
    if wrapped == "block":
        model.stages[0].blocks[0] = Wrapper(block)
    else:
        block.attn = Wrapper(block.attn)
    for a, b in zip(model(images), expected):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_mlps_of_others_take_tokens_alone():
    model, images = build().eval(), batch_of(pictures())
    expected = model(images)
    for stage in model.stages:
        for block in stage.blocks:
            block.mlp = torch.nn.Sequential(*block.mlp)
    for actual, e in zip(model(images), expected):
        torch.testing.assert_close(actual, e, rtol=1e-4, atol=1e-5)


def test_zeroing_stops_what_is_not_finite():
    x = torch.full((1, 2, 3, 1), torch.nan)
    x[0, 0, 0] = 7.0
    valid = torch.tensor([[1, 1]])
    assert zero_padding(x, valid).flatten().tolist() == [7.0, 0, 0, 0, 0, 0]
    assert mean_of_tokens(x, valid).item() == 7.0
    assert zero_padding(x, None) is x
    bright = torch.full((1, 60, 60, 1), 30.0, dtype=torch.float16)
    assert mean_of_tokens(bright, torch.tensor([[60, 60]])).item() == 30


def test_mixers_that_cannot_leave_padding_out_say_so():
    softmax = dict(type="SoftmaxAttention")
    model = SeTformer(SMALL, attention=softmax).eval()
    images = batch_of(pictures())
    with pytest.raises(ValueError, match="None: SoftmaxAttention mixes in padding"):
        model(images, torch.tensor(SIZES))
    ignoring = SeTformer(SMALL, attention=softmax, padding="ignore").eval()
    ignoring.load_state_dict(model.state_dict())
    for a, b in zip(model(images), ignoring(images)):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "valid_shape, message",
    [
        (torch.ones(2, 2).long(), r"\(B, 2\) = \(5, 2\), got \(2, 2\)"),
        (torch.ones(5).long(), r"\(B, 2\) = \(5, 2\), got \(5,\)"),
        (torch.ones(5, 2), "an int64 tensor, got torch.float32"),
        ([[1, 1]] * 5, "an int64 tensor, got list"),
        (torch.tensor([[161, 144]] * 5), r"in 0..\(160, 144\), got \[161, 144\]"),
        (torch.tensor([[-1, 144]] * 5), r"in 0..\(160, 144\), got \[-1, 144\]"),
        (torch.ones(5, 2, device="meta").long(), "on x's device cpu, got meta"),
    ],
)
def test_valid_shapes_out_of_their_rule(valid_shape, message):
    with pytest.raises((TypeError, ValueError), match=f"valid_shape must be {message}"):
        build()(batch_of(pictures()), valid_shape)


def test_a_valid_shape_without_values():
    with torch.device("meta"):
        images, valid = torch.empty(2, 3, 64, 96), torch.ones(2, 2).long()
        outs = build()(images, valid)
    assert [out.shape[2] for out in outs] == [16, 8, 4, 2]
