"""Valid parts of images and sequences: the others change nothing and get nothing."""

import random

import pytest
import torch

from setformer_mm.ops import set_attention

from .compiled import needs_extension
from .problems import gradients_of, random_tensors, relative_error

GRID, REFERENCE_GRID = (7, 9), (2, 3)
BACKENDS = ["reference", pytest.param("cpu", marks=needs_extension)]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def padded_problem(is_image: bool, extremes: bool = True) -> tuple[list, dict]:
    """Tensors, and arguments with a different valid part for each of five images."""
    inputs = random_tensors(batch=5, tokens=GRID[0] * GRID[1], references=6)
    most = torch.tensor(GRID if is_image else GRID[:1])
    valid = (torch.rand(5, len(most)) * most).long() + 1
    if extremes:
        valid[0], valid[1], valid[2] = most, 0, 1
    if is_image:
        shapes = dict(spatial_shape=GRID, reference_shape=REFERENCE_GRID)
        return inputs, dict(shapes, valid_shape=valid)
    return inputs, dict(lengths=valid[:, 0] * GRID[1])


def crops(tensor: torch.Tensor, options: dict) -> list[torch.Tensor]:
    """The valid tokens ``(1, n, ...)`` of each image."""
    if "lengths" in options:
        lengths = options["lengths"].tolist()
        return [t[:, :n] for t, n in zip(tensor.split(1), lengths)]
    grids = tensor.unflatten(1, GRID).split(1)
    valid = options["valid_shape"].tolist()
    return [g[:, :rows, :cols].flatten(1, 2) for g, (rows, cols) in zip(grids, valid)]


def attend_alone(x: torch.Tensor, parameters: list, options: dict, image: int, **more):
    options = dict(options)
    valid = options.pop("valid_shape", None)
    options.pop("lengths", None)
    if valid is not None:
        options["spatial_shape"] = tuple(valid[image].tolist())
    return set_attention(x, *parameters, **options, **more)


@pytest.mark.parametrize("is_image", [True, False], ids=["image", "sequence"])
def test_reference_computes_what_it_does_for_the_valid_part_alone(is_image):
    (x, *parameters), options = padded_problem(is_image)
    out = set_attention(x, *parameters, backend="reference", **options)
    for image, (part, alone) in enumerate(zip(crops(out, options), crops(x, options))):
        if alone.numel():
            expected = attend_alone(
                alone, parameters, options, image, backend="reference"
            )
            torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-12)
    assert out.count_nonzero() == sum(p.numel() for p in crops(out, options))


@each_backend
@pytest.mark.parametrize("is_image", [True, False], ids=["image", "sequence"])
@pytest.mark.parametrize("tau", [None, 0.5])
@pytest.mark.parametrize("num_iters", [0, 2])
def test_gradients_are_those_of_the_valid_parts_alone(
    is_image, tau, num_iters, backend
):
    inputs, options = padded_problem(is_image)
    options |= dict(tau=tau, num_iters=num_iters, epsilon=0.1)
    (x, *parameters), weights = inputs, torch.randn(5, 63, 2, 4, dtype=torch.float64)
    out = set_attention(x, *parameters, backend=backend, **options)
    actual = torch.autograd.grad((out * weights).sum(), inputs)
    loss = 0
    parts = zip(crops(x, options), crops(weights, options))
    for image, (alone, weight) in enumerate(parts):
        if alone.numel():
            alone = attend_alone(alone, parameters, options, image, backend="reference")
            loss = loss + (alone * weight).sum()
    for a, e in zip(actual, torch.autograd.grad(loss, inputs)):
        torch.testing.assert_close(a, e, rtol=1e-7, atol=1e-9)
    outside = actual[0].count_nonzero() - sum(
        p.count_nonzero() for p in crops(actual[0], options)
    )
    assert outside == 0


@each_backend
def test_whatever_is_padded_has_no_influence(backend):
    """Not even NaN or what is not in the range of any sum."""
    (x, *parameters), options = padded_problem(is_image=True)
    mask = torch.zeros(5, *GRID, dtype=torch.bool)
    for image, (rows, cols) in enumerate(options["valid_shape"].tolist()):
        mask[image, :rows, :cols] = True
    mask = mask.flatten(1)[..., None, None]
    runs = []
    for filling in (0.0, 1e30, torch.nan, torch.inf):
        filled = x.detach().masked_fill(~mask, filling).requires_grad_()
        out = set_attention(filled, *parameters, backend=backend, **options)
        runs.append([out, *gradients_of(out, [filled, *parameters])])
    for other in runs[1:]:
        for a, b in zip(runs[0], other):
            assert torch.equal(a, b)


@needs_extension
@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float32, 1e-5), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)],
)
def test_random_valid_parts(dtype, tolerance):
    """Many shapes; single tokens, whose gradients cancel, are not among them."""
    for _ in range(20):
        grid = random.randint(2, 40), random.randint(2, 40)
        batch = random.randint(1, 4)
        tensors = [
            t.detach()
            for t in random_tensors(batch, grid[0] * grid[1], 2, 16, 8, 6, torch.float)
        ]
        tensors[0] = tensors[0].to(dtype)
        valid = (torch.rand(batch, 2) * (torch.tensor(grid) - 1)).long() + 2
        options = dict(
            spatial_shape=grid, reference_shape=REFERENCE_GRID, valid_shape=valid
        )
        weights = torch.randn(batch, grid[0] * grid[1], 2, 8).to(dtype)
        results = []
        for backend in ("reference", "cpu"):
            exact = backend == "reference"
            inputs = [t.double() if exact else t for t in tensors]
            inputs = [t.requires_grad_() for t in inputs]
            out = set_attention(*inputs, backend=backend, **options)
            results.append([out, *torch.autograd.grad((out * weights).sum(), inputs)])
        for actual, expected in list(zip(*reversed(results)))[:2]:
            assert relative_error(actual, expected) < tolerance


@each_backend
def test_nothing_at_all_is_valid(backend):
    inputs, options = padded_problem(is_image=True)
    options["valid_shape"] = torch.zeros(5, 2, dtype=torch.int64)
    out = set_attention(*inputs, backend=backend, **options)
    assert not out.any()
    for grad in torch.autograd.grad(out.sum(), inputs):
        assert not grad.any()


@needs_extension
def test_large_padded_heads():
    """Heads that are not kept between passes, in chunks of which some are empty."""
    side = 260
    inputs = [
        t.detach().float().requires_grad_()
        for t in random_tensors(1, side**2, 1, 32, anchors=32, references=6)
    ]
    options = dict(spatial_shape=(side, side), reference_shape=REFERENCE_GRID)
    valid = torch.tensor([[100, 90]])
    out = set_attention(*inputs, backend="cpu", valid_shape=valid, **options)
    part = out.unflatten(1, (side, side))[:, :100, :90].flatten(1, 2)
    alone = inputs[0].unflatten(1, (side, side))[:, :100, :90].flatten(1, 2)
    options["spatial_shape"] = (100, 90)
    expected = set_attention(alone, *inputs[1:], backend="reference", **options)
    assert relative_error(part, expected) < 1e-5
    assert out.count_nonzero() == part.numel()
    weight = torch.randn_like(expected)
    for actual, e in zip(
        torch.autograd.grad((part * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
    ):
        assert relative_error(actual, e) < 1e-4


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(valid_shape=torch.ones(5, 2).long()), "valid_shape goes with spatial_"),
        (
            dict(
                lengths=torch.ones(5).long(),
                spatial_shape=GRID,
                reference_shape=REFERENCE_GRID,
            ),
            "lengths without it",
        ),
        (dict(lengths=torch.ones(4).long()), r"lengths must be \(B,\) = \(5,\), got"),
        (dict(lengths=torch.full((5,), 64)), r"lengths must be in 0..\(63,\), got"),
        (dict(lengths=torch.full((5,), -1)), r"lengths must be in 0..\(63,\), got"),
        (
            dict(
                valid_shape=torch.ones(5, 2, device="meta").long(),
                spatial_shape=GRID,
                reference_shape=REFERENCE_GRID,
            ),
            "valid_shape must be on x's device cpu, got meta",
        ),
    ],
)
def test_valid_parts_out_of_their_rule(options, message):
    inputs, _ = padded_problem(is_image=True)
    with pytest.raises(ValueError, match=message):
        set_attention(*inputs, **options)


def test_valid_parts_are_integers():
    inputs, _ = padded_problem(is_image=True)
    with pytest.raises(TypeError, match="an int64 tensor, got torch.float32"):
        set_attention(*inputs, lengths=torch.ones(5))


@each_backend
def test_no_inputs_at_all(backend):
    (x, *parameters), options = padded_problem(is_image=True)
    options["valid_shape"] = torch.zeros(0, 2, dtype=torch.int64)
    x = x.detach()[:0].requires_grad_()
    out = set_attention(x, *parameters, backend=backend, **options)
    for grad in torch.autograd.grad(out.sum(), [x, *parameters]):
        assert not grad.any()


@each_backend
def test_backends_keep_to_the_grid(backend):
    """Under compilation nobody looks at values; memory is safe all the same."""
    inputs, options = padded_problem(is_image=True)
    everything = dict(options, valid_shape=None)
    expected = set_attention(*inputs, backend=backend, **everything)
    compiled = torch.compile(set_attention, backend="eager")
    options["valid_shape"] = torch.full((5, 2), 10**6)
    actual = compiled(*inputs, backend=backend, **options)
    torch.testing.assert_close(actual, expected)
