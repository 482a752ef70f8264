"""The public function: symmetries, gradients, dtypes, edge cases, errors."""

import itertools
import math
import random

import pytest
import torch

from setformer_mm.ops import fold, set_attention, set_attention_folded, transport_plan

from .problems import (
    GEOMETRIES,
    clustered_anchors,
    gradients_of,
    orthonormal_anchors,
    random_problem,
    random_tensors,
    relative_error,
)

each_epsilon = pytest.mark.parametrize("epsilon", [0.01, 0.1])
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)
# Relative error of outputs and gradients whose coarsest tensor has this dtype.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 2e-4,
    torch.float16: 3e-3,
    torch.bfloat16: 2e-2,
}


def assert_all_finite(out, inputs):
    assert out.isfinite().all()
    for grad in gradients_of(out, inputs):
        assert grad.isfinite().all()


@each_epsilon
def test_tokens_in_another_order_give_the_same_result_in_that_order(epsilon):
    x, anchors, *sets = random_tensors()
    order = torch.randperm(x.shape[1])
    out = set_attention(x, anchors, *sets, epsilon=epsilon, tau=None)
    permuted = set_attention(x[:, order], anchors, *sets, epsilon=epsilon, tau=None)
    torch.testing.assert_close(permuted, out[:, order])
    positioned = set_attention(x[:, order], anchors, *sets, epsilon=epsilon)
    assert not torch.allclose(positioned, out[:, order])


@each_epsilon
@each_geometry
def test_references_in_another_order_need_their_positions_to_matter(epsilon, geometry):
    (x, anchors, *sets), shapes = random_problem(geometry)
    flipped = [references.flip(1) for references in sets]
    outs = [
        set_attention(x, anchors, *given, epsilon=epsilon, **shapes)
        for given in (sets, flipped)
    ]
    assert torch.allclose(*outs) == (geometry == "no positions")


@each_epsilon
@each_geometry
def test_scaling_the_tokens_scales_the_result(epsilon, geometry):
    (x, *parameters), shapes = random_problem(geometry)
    out = set_attention(x, *parameters, epsilon=epsilon, **shapes)
    for scale in (1e-20, 0.3, 7.0, 1e30):
        scaled = set_attention(scale * x, *parameters, epsilon=epsilon, **shapes)
        torch.testing.assert_close(scaled / scale, out)


def test_images_and_heads_do_not_mix():
    x, anchors, *sets = random_tensors(batch=3, heads=2)
    out = set_attention(x, anchors, *sets)
    for image, head in itertools.product(range(3), range(2)):
        alone = set_attention(
            x[image : image + 1, :, head : head + 1],
            *(p[head : head + 1] for p in (anchors, *sets)),
        )
        torch.testing.assert_close(alone[0, :, 0], out[image, :, head])


@each_epsilon
@each_geometry
@pytest.mark.parametrize("num_iters", [0, 3])
def test_gradcheck(epsilon, geometry, num_iters):
    inputs = random_tensors(batch=2, tokens=6, heads=1, dim=3, anchors=3, references=4)
    shapes = dict(spatial_shape=(2, 3), reference_shape=(2, 2))
    options = {"image": shapes, "sequence": {}, "no positions": dict(tau=None)}[
        geometry
    ]

    def op(*tensors):
        return set_attention(*tensors, epsilon=epsilon, num_iters=num_iters, **options)

    assert torch.autograd.gradcheck(op, inputs, fast_mode=True)


@each_epsilon
def test_every_dtype_of_tokens_with_every_dtype_of_parameters(epsilon):
    exact = random_tensors(tokens=20, references=9)
    for x_dtype, parameter_dtype in itertools.product(TOLERANCES, repeat=2):
        dtypes = x_dtype, *[parameter_dtype] * 3
        inputs = [t.detach().to(d).requires_grad_() for t, d in zip(exact, dtypes)]
        out = set_attention(*inputs, epsilon=epsilon)
        assert out.dtype == x_dtype
        rounded = [t.detach().double().requires_grad_() for t in inputs]
        expected = set_attention(*rounded, epsilon=epsilon)
        assert relative_error(out, expected) < TOLERANCES[x_dtype]
        weight = torch.randn_like(out)
        grads = torch.autograd.grad(out, inputs, weight)
        expected = torch.autograd.grad(expected, rounded, weight.double())
        for grad, e, dtype in zip(grads, expected, dtypes):
            assert grad.dtype == dtype
            tolerance = max(TOLERANCES[x_dtype], TOLERANCES[dtype])
            assert relative_error(grad, e) < tolerance, (x_dtype, parameter_dtype)


@each_epsilon
def test_autocast_is_switched_off_inside(epsilon):
    inputs = random_tensors(dtype=torch.float32)
    options = dict(epsilon=epsilon)
    outside = set_attention(*inputs, **options)
    plan = transport_plan(*inputs, **options)
    expected = gradients_of(outside, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        inside = set_attention(*inputs, **options)
        assert torch.equal(transport_plan(*inputs, **options), plan)
    assert torch.equal(inside, outside)
    for a, e in zip(gradients_of(inside, inputs), expected):
        assert torch.equal(a, e)


def test_plan_takes_the_arguments_of_the_operator_and_ignores_positions():
    tensors, grids = random_problem("image")
    fields = dict(tau=0.3, backend="reference")
    assert torch.equal(
        transport_plan(*tensors), transport_plan(*tensors, **grids, **fields)
    )
    with pytest.raises(ValueError, match="spatial_shape must be a pair"):
        transport_plan(*tensors, **{**grids, "spatial_shape": (7, 7)})


def test_plan_is_at_least_single_precision():
    for dtype in TOLERANCES:
        x, *parameters = random_tensors()
        plan = transport_plan(x.to(dtype), *parameters)
        expected = torch.float64 if dtype == torch.float64 else torch.float32
        assert plan.dtype == expected
        assert plan.shape == (2, 2, 12, 6)


@each_epsilon
def test_non_contiguous_inputs(epsilon):
    x, anchors, *sets = random_tensors()
    expected = set_attention(x, anchors, *sets, epsilon=epsilon)
    gradients = gradients_of(expected, [x, anchors, *sets])
    strided = [
        t.detach().transpose(1, -1).contiguous().transpose(1, -1).requires_grad_()
        for t in (x, anchors, *sets)
    ]
    assert not any(t.is_contiguous() for t in strided)
    out = set_attention(*strided, epsilon=epsilon)
    torch.testing.assert_close(out, expected)
    for actual, e in zip(gradients_of(out, strided), gradients):
        torch.testing.assert_close(actual, e)


@each_epsilon
def test_expanded_inputs(epsilon):
    """One token sequence for all images, one set of parameters for all heads."""
    x, anchors, *sets = random_tensors(batch=1, heads=1)
    small = [x, anchors, *sets]
    expanded = [
        x.expand(3, -1, 2, -1),
        anchors.expand(2, -1, -1),
        *(references.expand(2, -1, -1) for references in sets),
    ]
    out = set_attention(*expanded, epsilon=epsilon)
    copied = set_attention(*(t.contiguous() for t in expanded), epsilon=epsilon)
    torch.testing.assert_close(out, copied)
    for a, e in zip(gradients_of(out, small), gradients_of(copied, small)):
        torch.testing.assert_close(a, e)


@each_epsilon
@pytest.mark.parametrize(
    "tokens, references", [(1, 1), (1, 6), (3, 7), (7, 1)], ids=str
)
def test_fewer_tokens_than_references(epsilon, tokens, references):
    inputs = random_tensors(tokens=tokens, references=references)
    for options in ({}, dict(tau=None)):
        out = set_attention(*inputs, epsilon=epsilon, **options)
        assert_all_finite(out, inputs)
        assert out.norm() > 0
    if tokens == 1:
        # One token takes its own value whatever the plans:
        # |x| k(z, z)^-1/2 (k(z, x) - exp(-alpha)).
        x, anchors, *_ = (t.detach() for t in inputs)
        unit = torch.nn.functional.normalize
        k = torch.exp(
            2
            * (
                torch.einsum("bnhd,hkd->bnhk", unit(x, dim=-1), unit(anchors, dim=-1))
                - 1
            )
        )
        value_map = fold(anchors, *inputs[2:], 2.0).value_map
        expected = x.norm(dim=-1, keepdim=True) * torch.einsum(
            "bnhk,hkl->bnhl", k - math.exp(-2), value_map
        )
        torch.testing.assert_close(out, expected)


@each_epsilon
@each_geometry
def test_empty_batch(epsilon, geometry):
    inputs, shapes = random_problem(geometry, batch=0)
    out = set_attention(*inputs, epsilon=epsilon, **shapes)
    x, anchors, *_ = inputs
    assert out.shape == (0, x.shape[1], x.shape[2], anchors.shape[1])
    out.sum().backward()
    assert inputs[0].grad.shape == x.shape
    assert all((p.grad == 0).all() for p in inputs[1:] if p.grad is not None)


@each_epsilon
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_zero_vectors(epsilon, dtype):
    x, anchors, *sets = (t.detach().to(dtype) for t in random_tensors())
    x[0, 3] = 0
    x[1] = 0  # a whole image
    anchors[0, :2] = 0
    for references in sets:
        references[1, 1] = 0
    inputs = [t.requires_grad_() for t in (x, anchors, *sets)]
    out = set_attention(*inputs, epsilon=epsilon)
    assert_all_finite(out, inputs)
    assert (out[1] == 0).all()
    assert (gradients_of(out, inputs)[0][x == 0] == 0).all()


@each_epsilon
def test_a_token_at_the_floor_is_a_zero_token(epsilon):
    for dtype, floor in ((torch.float16, 2**-14), (torch.float32, 1e-30)):
        x, *parameters = (t.detach().to(dtype) for t in random_tensors())
        x[:, ::2] = torch.nn.functional.normalize(x[:, ::2].float(), dim=-1) * floor / 2
        zeroed = x.clone()
        zeroed[:, ::2] = 0
        for t in (x, zeroed):
            t.requires_grad_()
        outs = [set_attention(t, *parameters, epsilon=epsilon) for t in (x, zeroed)]
        assert torch.equal(*outs)
        assert (gradients_of(outs[0], [x])[0][:, ::2] == 0).all()


@each_epsilon
@pytest.mark.parametrize(
    "kind", ["orthonormal", "identical", "clustered", "references"]
)
def test_special_anchors(epsilon, kind):
    """Against float64, where test_reference and test_fold show what is right."""
    dim = 32
    anchors = {
        "orthonormal": lambda: orthonormal_anchors(heads=2, dim=dim),
        "identical": lambda: orthonormal_anchors(2, dim)[:, :1].repeat(1, dim, 1),
        "clustered": clustered_anchors,
        "references": lambda: clustered_anchors(count=9),
    }[kind]()
    references = anchors.clone() if kind == "references" else clustered_anchors(count=9)
    exact = [random_tensors(tokens=30, dim=dim)[0], anchors, references]
    exact = [t.detach().requires_grad_() for t in exact]
    single = [t.detach().float().requires_grad_() for t in exact]
    # Anchors are rounded, too: the maps of these and not those before rounding.
    exact = [t.detach().double().requires_grad_() for t in single]
    expected = set_attention(*exact, epsilon=epsilon)
    out = set_attention(*single, epsilon=epsilon)
    assert relative_error(out, expected) < 1e-3
    for a, e in zip(gradients_of(out, single), gradients_of(expected, exact)):
        assert relative_error(a, e) < 1e-2


@each_epsilon
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_norms(epsilon, dtype):
    """Against float64; ill-conditioned anchors have large entries in k(z, z)^-1/2."""
    x = torch.nn.functional.normalize(random_tensors()[0].detach(), dim=-1)
    parameters = [
        clustered_anchors(dim=5, count=4, spread=0.02).requires_grad_(),
        random_tensors()[2],
    ]
    smallest = 2**-13 if dtype == torch.float16 else 1e-20
    norms = torch.tensor([0.99 * torch.finfo(dtype).max, 1e4, smallest])
    for norm in (*norms, norms[torch.randint(3, x.shape[:-1])].unsqueeze(-1)):
        scaled = (x * norm).to(dtype).requires_grad_()
        out = set_attention(scaled, *parameters, epsilon=epsilon)
        expected = set_attention(scaled.double(), *parameters, epsilon=epsilon)
        assert out.isfinite().all()
        assert relative_error(out, expected) < 2 * TOLERANCES[dtype]
        # The gradient of a short token beside long ones overflows float16 by itself,
        # and so does float32 where tokens at the end of its range meet parameters.
        if norm.numel() == 1 and norm < 1e25:
            assert_all_finite(out, [scaled, *parameters])


def test_results_repeat_exactly():
    inputs, shapes = random_problem("image", dtype=torch.float32)
    runs = []
    for _ in range(2):
        out = set_attention(*inputs, **shapes)
        runs.append([out, *gradients_of(out, inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*runs))


@each_geometry
def test_folded_parameters_give_the_same_result(geometry):
    (x, *parameters), shapes = random_problem(geometry, dtype=torch.float32)
    expected = set_attention(x, *parameters, alpha=3.0, **shapes)
    folded = fold(*parameters, 3.0)
    assert torch.equal(set_attention_folded(x, folded, **shapes), expected)
    rounded = set_attention_folded(x, folded.to(torch.float32), **shapes)
    assert relative_error(rounded, expected) < TOLERANCES[torch.float32]


def test_shapes_may_be_tensors():
    """As mmengine's FLOP counter hands them over."""
    inputs = random_tensors()
    shapes = dict(spatial_shape=(3, 4), reference_shape=(2, 3))
    traced = {k: tuple(map(torch.tensor, v)) for k, v in shapes.items()}
    assert torch.equal(
        set_attention(*inputs, **traced), set_attention(*inputs, **shapes)
    )


# name: (change of the valid arguments, exception, what the message says)
TENSORS = "x", "anchors", "references", "return_references"

INVALID_PARAMETERS = {
    "integer anchors": (
        dict(anchors=torch.ones(2, 4, 5, dtype=torch.long)),
        TypeError,
        "anchors must be floating, of at least 16 bits, got torch.int64",
    ),
    "integer references": (
        dict(references=torch.ones(2, 6, 5, dtype=torch.int)),
        TypeError,
        "references must be floating, of at least 16 bits, got torch.int32",
    ),
    "integer tokens": (
        dict(x=torch.ones(2, 12, 2, 5, dtype=torch.uint8)),
        TypeError,
        "x must be floating, of at least 16 bits, got torch.uint8",
    ),
    "anchors of one head": (
        dict(anchors=torch.ones(4, 5)),
        ValueError,
        "anchors must be (heads, K, D) with none of them 0, got (4, 5)",
    ),
    "no anchors": (
        dict(anchors=torch.ones(2, 0, 5)),
        ValueError,
        "anchors must be (heads, K, D) with none of them 0, got (2, 0, 5)",
    ),
    "references of one head": (
        dict(references=torch.ones(6, 5)),
        ValueError,
        "like the anchors and M at least 1, got (6, 5)",
    ),
    "no references": (
        dict(references=torch.ones(2, 0, 5)),
        ValueError,
        "references must be (heads, M, 5) with 2 heads",
    ),
    "references of other heads": (
        dict(references=torch.ones(3, 6, 5)),
        ValueError,
        "with 2 heads like the anchors and M at least 1, got (3, 6, 5)",
    ),
    "references of another dimension": (
        dict(references=torch.ones(2, 6, 4)),
        ValueError,
        "references must be (heads, M, 5)",
    ),
    "references elsewhere": (
        dict(references=torch.ones(2, 6, 5, device="meta")),
        ValueError,
        "references must be on the anchors' device cpu, got meta",
    ),
    "return references of other heads": (
        dict(return_references=torch.ones(3, 6, 5)),
        ValueError,
        "return_references must be (heads, M, 5) with 2 heads",
    ),
    "fewer return references": (
        dict(return_references=torch.ones(2, 5, 5)),
        ValueError,
        "return_references must have the shape of the references, (2, 6, 5), "
        "got (2, 5, 5)",
    ),
    "integer return references": (
        dict(return_references=torch.ones(2, 6, 5, dtype=torch.int)),
        TypeError,
        "return_references must be floating, of at least 16 bits, got torch.int32",
    ),
    "tokens elsewhere": (
        dict(x=torch.ones(2, 12, 2, 5, device="meta")),
        ValueError,
        "x must be on the anchors' device cpu, got meta",
    ),
    "tokens of one image": (
        dict(x=torch.ones(12, 2, 5)),
        ValueError,
        "x must be (B, N, 2, 5) with N at least 1, got (12, 2, 5)",
    ),
    "no tokens": (dict(x=torch.ones(2, 0, 2, 5)), ValueError, "got (2, 0, 2, 5)"),
    "tokens of other heads": (
        dict(x=torch.ones(2, 12, 3, 5)),
        ValueError,
        "x must be (B, N, 2, 5)",
    ),
    "no iterations": (
        dict(num_iters=-1),
        ValueError,
        "num_iters must be an integer >= 0, got -1",
    ),
    "half iterations": (dict(num_iters=1.5), ValueError, "got 1.5"),
    "boolean iterations": (dict(num_iters=True), ValueError, "got True"),
    "boolean epsilon": (dict(epsilon=True), ValueError, "[1e-6, 1e6], got True"),
} | {
    f"{name}={value!r}": (
        {name: value},
        ValueError,
        f"{name} must be a number in [1e-6, 1e6], got {value!r}",
    )
    for name in ("epsilon", "alpha")
    for value in (0, -0.1, 1e-7, 1e7, math.inf, math.nan, "0.1", None)
}
INVALID_GEOMETRY = {
    "one shape": (
        dict(spatial_shape=(3, 4)),
        ValueError,
        "spatial_shape and reference_shape must be given together (image) or not at "
        "all (sequence), got (3, 4) and None",
    ),
    "other shape": (
        dict(reference_shape=(2, 3)),
        ValueError,
        "must be given together (image) or not at all (sequence), got None and (2, 3)",
    ),
    "too few tokens": (
        dict(spatial_shape=(3, 5), reference_shape=(2, 3)),
        ValueError,
        "spatial_shape must be a pair of integers with H_t * W_t = N = 12, got (3, 5)",
    ),
    "too few references": (
        dict(spatial_shape=(3, 4), reference_shape=(2, 2)),
        ValueError,
        "reference_shape must be a pair of integers with r_h * r_w = M = 6, got (2, 2)",
    ),
    "negative sides": (
        dict(spatial_shape=(-3, -4), reference_shape=(2, 3)),
        ValueError,
        "spatial_shape must be a pair of integers with H_t * W_t = N = 12, "
        "got (-3, -4)",
    ),
    "sides of floats": (
        dict(spatial_shape=(3.0, 4.0), reference_shape=(2, 3)),
        ValueError,
        "must be a pair of integers with H_t * W_t = N = 12, got (3.0, 4.0)",
    ),
    "one side": (
        dict(spatial_shape=12, reference_shape=(2, 3)),
        ValueError,
        "must be a pair of integers with H_t * W_t = N = 12, got 12",
    ),
    "three sides": (
        dict(spatial_shape=(3, 4, 1), reference_shape=(2, 3)),
        ValueError,
        "got (3, 4, 1)",
    ),
    "backend": (dict(backend="tpu"), ValueError, "backend must be one of 'auto'"),
} | {
    f"tau={value!r}": (
        dict(tau=value),
        ValueError,
        f"tau must be a number in [1e-6, 1e6], got {value!r}",
    )
    for value in (0, -0.1, 1e-20, math.inf, math.nan, "0.15")
}


@pytest.fixture
def no_work(monkeypatch):
    """Fail if folding, the first real work, is reached."""

    def refuse(*args):
        raise AssertionError("the arguments were not checked before the work")

    module = set_attention.__globals__
    monkeypatch.setitem(module, "fold", refuse)


@pytest.mark.parametrize("case", INVALID_PARAMETERS | INVALID_GEOMETRY)
def test_invalid_arguments_are_refused_before_any_work(case, no_work):
    change, error, message = (INVALID_PARAMETERS | INVALID_GEOMETRY)[case]
    arguments = dict(zip(TENSORS, random_tensors())) | change
    functions = [set_attention]
    if case in INVALID_PARAMETERS:
        functions.append(transport_plan)
    for function in functions:
        with pytest.raises(error) as info:
            function(**arguments)
        assert message in str(info.value)


@pytest.mark.parametrize(
    "case",
    [*INVALID_GEOMETRY, "integer tokens", "tokens of other heads", "half iterations"],
)
def test_invalid_arguments_beside_folded_parameters_are_refused(case):
    change, error, message = (INVALID_PARAMETERS | INVALID_GEOMETRY)[case]
    x, anchors, *sets = random_tensors()
    arguments = dict(x=x, folded=fold(anchors, *sets, 2.0)) | change
    with pytest.raises(error) as info:
        set_attention_folded(**arguments)
    assert message in str(info.value)


def test_defaults_are_those_of_the_method():
    inputs = random_tensors(tokens=random.randint(2, 9))
    expected = set_attention(
        *inputs, epsilon=0.01, num_iters=1, alpha=2.0, tau=0.5, backend="auto"
    )
    assert torch.equal(set_attention(*inputs), expected)


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="way must be 'in' or 'back', got 'out'"):
        transport_plan(*random_tensors(), way="out")
