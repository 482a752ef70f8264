"""The plain PyTorch operator against the method's text and POT."""

import random
from functools import partial

import numpy as np
import ot
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from setformer_mm import ops
from setformer_mm.ops import transport_plan

from . import naive
from .problems import (
    GEOMETRIES,
    gradients_of,
    orthonormal_anchors,
    random_problem,
    random_tensors,
    relative_error,
)

set_attention = partial(ops.set_attention, backend="reference")

WAYS = {"in": "way_in", "back": "way_back"}  # of transport_plan, of naive.Head


def heads_of(x, *parameters):
    """Yield indices and numpy inputs of each image and head."""
    x, *parameters = (t.detach().numpy() for t in (x, *parameters))
    for image in range(x.shape[0]):
        for head in range(x.shape[2]):
            yield (image, head), (x[image, :, head], *(p[head] for p in parameters))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("epsilon", [0.01, 0.1])
@pytest.mark.parametrize("num_iters", [0, 1, 3])
def test_output_and_plans_are_those_of_the_method(geometry, epsilon, num_iters):
    inputs, shapes = random_problem(geometry)
    options = dict(
        epsilon=epsilon, num_iters=num_iters, alpha=random.choice([1.0, 2.0, 4.0])
    )
    out = set_attention(*inputs, **options, **shapes).detach()
    plans = {way: transport_plan(*inputs, way=way, **options).detach() for way in WAYS}
    for (image, head), arrays in heads_of(*inputs):
        expected = naive.attend(*arrays, **options, **shapes)
        np.testing.assert_allclose(out[image, :, head], expected.out, atol=1e-8)
        for way, name in WAYS.items():
            np.testing.assert_allclose(
                plans[way][image, head], getattr(expected, name).plan, atol=1e-9
            )


def test_without_return_references_both_ways_have_the_same():
    x, anchors, references, _ = random_tensors()
    out = set_attention(x, anchors, references)
    twice = set_attention(x, anchors, references, references)
    assert torch.equal(out, twice)
    inputs = [x, anchors, references]
    for once, both in zip(gradients_of(out, inputs), gradients_of(twice, inputs)):
        torch.testing.assert_close(once, both)
    (_, head), *_ = heads_of(x, anchors, references)
    np.testing.assert_allclose(
        out[0, :, 0].detach(), naive.attend(*head).out, atol=1e-8
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_attention_matrix_is_non_negative_and_row_stochastic(geometry):
    """P Q^T, built from the operator's own plans, gives its output from the values."""
    inputs, shapes = random_problem(geometry)
    out = set_attention(*inputs, **shapes).detach()
    plans = {way: transport_plan(*inputs, way=way).detach() for way in WAYS}
    for (image, head), arrays in heads_of(*inputs):
        weights = naive.position_weights(
            *plans["in"].shape[-2:],
            shapes.get("spatial_shape"),
            shapes.get("reference_shape"),
            shapes.get("tau", 0.5),
        )
        way_in, way_back = (plans[way][image, head].numpy() * weights for way in WAYS)
        p = way_back / way_back.sum(1, keepdims=True)
        q = way_in / way_in.sum(0)
        mixing = p @ q.T
        assert (mixing >= 0).all()
        np.testing.assert_allclose(mixing.sum(1), 1)
        values = naive.attend(*arrays).values
        np.testing.assert_allclose(out[image, :, head], mixing @ values, atol=1e-8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
def test_converged_plan_is_that_of_pot(epsilon, way):
    inputs = random_tensors(batch=1, tokens=random.randint(5, 15), references=7)
    plan = transport_plan(*inputs, way=way, epsilon=epsilon, num_iters=3000).detach()
    n, m = plan.shape[-2:]
    for (image, head), arrays in heads_of(*inputs):
        expected = ot.sinkhorn(
            np.full(n, 1 / n),
            np.full(m, 1 / m),
            1 - getattr(naive.attend(*arrays, num_iters=0), WAYS[way]).scores,
            epsilon,
            numItermax=3000,
            stopThr=1e-12,
        )
        # Relative to the mean entry, which is far smaller than 1.
        np.testing.assert_allclose(
            n * m * plan[image, head], n * m * expected, atol=1e-6
        )
        np.testing.assert_allclose(plan[image, head].sum(0), 1 / m, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("num_iters", [0, 1, 3])
def test_rows_of_the_plan_sum_to_one_over_n_at_any_iteration(epsilon, num_iters):
    inputs = random_tensors(tokens=random.randint(1, 20), references=9)
    plan = transport_plan(*inputs, epsilon=epsilon, num_iters=num_iters)
    assert (plan >= 0).all()
    rows = plan.sum(-1)
    torch.testing.assert_close(rows, torch.full_like(rows, 1 / inputs[0].shape[1]))


def test_iterations_bring_the_columns_to_one_over_m():
    inputs = random_tensors(tokens=30, references=6)
    errors = [
        (transport_plan(*inputs, epsilon=0.1, num_iters=n).sum(-2) * 6 - 1)
        .abs()
        .max()
        .item()
        for n in (0, 3, 300)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_small_tau_gives_each_token_its_nearest_reference():
    """Tokens of a 4 x 6 grid over 2 x 3 references: groups of 2 x 2 tokens.

    Each sees one reference and each reference sees its group alone, with weights that
    hardly differ: the result is the group's mean value.
    """
    inputs = random_tensors(tokens=24, references=6)
    shapes = dict(spatial_shape=(4, 6), reference_shape=(2, 3))
    for dtype in (torch.float32, torch.float64):
        tensors = [t.detach().to(dtype).requires_grad_() for t in inputs]
        for tau in (1e-6, 0.001):
            out = set_attention(*tensors, tau=tau, epsilon=1e6, **shapes)
            grid = out.detach().unflatten(1, (2, 2, 3, 2))
            for (image, head), arrays in heads_of(*tensors):
                values = naive.attend(*arrays).values.reshape(2, 2, 3, 2, -1)
                expected = np.broadcast_to(
                    values.mean((1, 3), keepdims=True), (2, 2, 3, 2, 4)
                )
                actual = grid[image, ..., head, :]
                if dtype == torch.float64 or tau == 0.001:
                    np.testing.assert_allclose(actual, expected, rtol=0.02, atol=1e-2)
            assert all(g.isfinite().all() for g in gradients_of(out, tensors))


@pytest.mark.parametrize("epsilon", [1e-6, 0.001, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_float32_is_finite_for_small_epsilon_on_adversarial_inputs(epsilon, geometry):
    """Tokens equal and opposite to anchors and references: scores at both ends."""
    _, anchors, references, return_references = random_tensors(
        heads=1, anchors=5, dtype=torch.float32
    )
    x = torch.cat([anchors, references, -anchors, -references, anchors[:, :2]], 1)
    x = x.detach().transpose(0, 1).unsqueeze(0)  # 24 tokens
    shapes = dict(spatial_shape=(4, 6), reference_shape=(2, 3))
    options = {"image": shapes, "sequence": {}, "no positions": dict(tau=None)}[
        geometry
    ]
    for alpha in (2.0, 100.0):
        for z in (anchors, orthonormal_anchors(dtype=torch.float32), references):
            sets = references, return_references
            inputs = [t.detach().requires_grad_() for t in (x, z, *sets)]
            out = set_attention(*inputs, epsilon=epsilon, alpha=alpha, **options)
            assert out.isfinite().all()
            assert all(g.isfinite().all() for g in gradients_of(out, inputs))


@pytest.mark.parametrize("epsilon", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("num_iters", [0, 1, 3, 20])
@pytest.mark.parametrize("tau", [0.01, 0.1, 0.5, None])
def test_single_precision_holds_for_any_epsilon_and_tau(epsilon, num_iters, tau):
    """Half of the references are far from every token.

    What float32 rounds of a score, at most 1, reaches exponents divided by epsilon.
    """
    x, *parameters = (t.detach() for t in random_tensors(tokens=48, references=8))
    x = x * 0.2 + 1
    for references in parameters[1:]:
        references[:, ::2] = -1 + 0.2 * references[:, ::2]
    inputs = [t.requires_grad_() for t in (x, *parameters)]
    shapes = dict(spatial_shape=(6, 8), reference_shape=(2, 4))
    options = dict(epsilon=epsilon, num_iters=num_iters, tau=tau, **shapes)
    out = set_attention(*inputs, **options)
    single = [t.detach().float().requires_grad_() for t in inputs]
    single_out = set_attention(*single, **options)
    limit = 1e-6 * max(1, 0.1 / epsilon)
    assert relative_error(single_out, out) < limit
    for a, e in zip(gradients_of(single_out, single), gradients_of(out, inputs)):
        assert (a - e).norm() < 1000 * limit * max(e.norm(), 0.1)


class LargestTensor(TorchDispatchMode):
    """Records the most elements in a tensor that any operation has made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *made])
        return out


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_second_derivatives(geometry):
    inputs = random_tensors(batch=1, tokens=4, dim=3, anchors=3, references=2)
    shapes = dict(spatial_shape=(2, 2), reference_shape=(1, 2))
    options = shapes if geometry == "image" else {}
    if geometry == "no positions":
        options = dict(tau=None)
    attend = partial(set_attention, epsilon=0.5, **options)
    assert torch.autograd.gradgradcheck(attend, inputs)


def test_function_transforms():
    """`grad`, over all arguments; `vmap` over a batch, and over sets of parameters."""
    inputs, options = random_problem("image", batch=3)

    def loss(x, *parameters):
        return set_attention(x, *parameters, **options).square().sum()

    def loss_of_image(x, *parameters):
        return loss(x[None], *parameters)

    expected = torch.autograd.grad(loss(*inputs), inputs)
    inputs = [t.detach() for t in inputs]
    everything = tuple(range(4))
    for actual, e in zip(torch.func.grad(loss, everything)(*inputs), expected):
        torch.testing.assert_close(actual, e)
    of_images = torch.func.vmap(
        torch.func.grad(loss_of_image, everything), (0, None, None, None)
    )(*inputs)
    torch.testing.assert_close(of_images[0], expected[0])
    for actual, e in zip(of_images[1:], expected[1:]):
        torch.testing.assert_close(actual.sum(0), e)
    x, *parameters = inputs
    twice = [torch.stack([p, -p]) for p in parameters]
    torch.testing.assert_close(
        torch.func.vmap(loss, (None, 0, 0, 0))(x, *twice),
        torch.stack([loss(x, *parameters), loss(x, *(-p for p in parameters))]),
    )


@pytest.mark.parametrize("is_image", [True, False])
def test_memory_is_linear_in_the_number_of_tokens(is_image):
    def measure(side):
        """Bytes kept for the backward pass, and elements of the largest tensor."""
        inputs = random_tensors(batch=1, heads=1, tokens=side**2, references=9)
        shapes = dict(spatial_shape=(side, side), reference_shape=(3, 3))
        saved = {}

        def pack(t):
            storage = t.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return t

        with LargestTensor() as largest, saved_tensors_hooks(pack, lambda t: t):
            out = set_attention(*inputs, **(shapes if is_image else {}))
            out.sum().backward()
        return sum(saved.values()), largest.numel

    (few_bytes, few_elements), (many_bytes, many_elements) = measure(12), measure(24)
    assert many_bytes <= 4.2 * few_bytes
    assert many_elements <= 4.2 * few_elements
    assert many_elements < (24**2) ** 2 / 10
