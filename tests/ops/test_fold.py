"""Folded parameters against an independent inverse square root, and their gradients."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from setformer_mm.ops import Folded, NonFiniteError, fold
from setformer_mm.ops.fold import _InverseSquareRoot

from . import naive
from .problems import clustered_anchors, orthonormal_anchors, random_tensors


def fold_maps(anchors, references, return_references):
    *maps, _ = fold(anchors, references, return_references, 2.0)
    return maps


def central_difference(function, inputs, directions, step=1e-6):
    """Derivative of a scalar function of tensors along given directions.

    Of identical anchors the third derivative is so large that a step of 1e-5 is off
    by a thousandth; with this one the worst of 3,000 draws is off by 1e-5.
    """
    ahead = [t + step * d for t, d in zip(inputs, directions)]
    behind = [t - step * d for t, d in zip(inputs, directions)]
    return (function(*ahead) - function(*behind)) / (2 * step)


@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0])
def test_maps_are_those_of_the_definition(alpha):
    _, anchors, *sets = (t.detach() for t in random_tensors())
    folded = fold(anchors, *sets, alpha)
    assert folded.alpha == alpha
    unit = torch.nn.functional.normalize(anchors, dim=-1)
    torch.testing.assert_close(folded.anchors, unit)
    both = torch.cat(sets, 1)
    for head, (z, y) in enumerate(zip(anchors.numpy(), both.numpy())):
        root = torch.from_numpy(naive.inverse_square_root(z, alpha))
        k = torch.tensor([[naive.kernel(a, b, alpha) for b in y] for a in z])
        torch.testing.assert_close(folded.value_map[head], root)
        torch.testing.assert_close(folded.score_maps[head], root @ root @ k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_maps_are_float64_and_gradients_in_the_dtype_of_the_parameters(dtype):
    parameters = [t.detach().to(dtype) for t in random_tensors()[1:]]
    expected = fold_maps(*(p.double() for p in parameters))
    parameters = [p.requires_grad_() for p in parameters]
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            maps = fold_maps(*parameters)
        for actual, e in zip(maps, expected):
            torch.testing.assert_close(actual, e)
    for grad in torch.autograd.grad(sum(m.sum() for m in maps), parameters):
        assert grad.dtype == dtype and grad.isfinite().all()


def test_gradcheck():
    parameters = random_tensors(anchors=3)[1:]
    assert torch.autograd.gradcheck(fold_maps, parameters)
    assert torch.autograd.gradgradcheck(fold_maps, parameters)


def test_norms_of_parameters_do_not_matter():
    parameters = random_tensors()[1:]
    for scale in (1e-20, 1e20):
        scaled = fold_maps(*(scale * p for p in parameters))
        for a, b in zip(fold_maps(*parameters), scaled):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["orthonormal", "identical", "opposite"])
def test_gradient_where_eigenvalues_coincide(kind):
    """The gradient of a plain eigh is NaN or meaningless here."""
    anchors = orthonormal_anchors(heads=2, dim=4)
    if kind == "identical":
        anchors = anchors[:, :1].repeat(1, 4, 1)
    elif kind == "opposite":
        anchors = torch.cat([anchors[:, :2], -anchors[:, :2]], 1)
    inputs = [anchors.requires_grad_(), *random_tensors(dim=4)[2:]]
    weights = [torch.randn_like(m) for m in fold_maps(*inputs)]

    def loss(*tensors):
        return sum((w * m).sum() for w, m in zip(weights, fold_maps(*tensors)))

    grads = torch.autograd.grad(loss(*inputs), inputs)
    directions = [torch.randn_like(t) for t in inputs]
    analytic = sum((g * d).sum() for g, d in zip(grads, directions))
    with torch.no_grad():
        numeric = central_difference(loss, inputs, directions)
    scale = sum(g.square().sum() for g in grads).sqrt()
    assert abs(analytic - numeric) < 1e-4 * scale


def test_gradient_of_the_inverse_square_root_at_a_repeated_eigenvalue():
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    eigenvalues = torch.tensor([1.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    matrix = (basis * eigenvalues) @ basis.T

    def inverse_square_root(m):
        return _InverseSquareRoot.apply((m + m.T) / 2)[0]

    assert torch.autograd.gradcheck(inverse_square_root, (matrix.requires_grad_(),))
    assert torch.autograd.gradgradcheck(inverse_square_root, (matrix,))


def test_ill_conditioned_anchors():
    """The ridge bounds k(z, z)^-1/2, and the maps still invert the kernel matrix."""
    anchors = clustered_anchors().requires_grad_()
    sets = random_tensors(dim=32)[2:]
    folded = fold(anchors, *sets, 2.0)
    gram = torch.exp(2 * (anchors @ anchors.mT - 1))
    assert torch.linalg.cond(gram).min() > 80
    gram = gram + 1e-5 * torch.eye(32, dtype=gram.dtype)
    identity = torch.eye(32, dtype=gram.dtype).expand_as(gram)
    product = folded.value_map @ gram @ folded.value_map
    torch.testing.assert_close(product, identity, atol=1e-8, rtol=0)
    grads = torch.autograd.grad(sum(m.sum() for m in folded[:3]), [anchors, *sets])
    assert all(g.isfinite().all() for g in grads)


def test_zero_anchors_and_references_are_finite():
    parameters = random_tensors()[1:]
    with torch.no_grad():
        for p in parameters:
            p[:, :2] = 0
    maps = fold_maps(*parameters)
    grads = torch.autograd.grad(sum(m.sum() for m in maps), parameters)
    assert all(t.isfinite().all() for t in (*maps, *grads))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["anchors", "references", "return_references"])
@pytest.mark.parametrize("count", [4, 32])
@pytest.mark.parametrize("training", [False, True])
def test_the_head_that_is_not_finite_is_named(value, which, count, training):
    """LAPACK says nothing from 26 anchors on, and nothing at all of references."""
    parameters = [t.detach() for t in random_tensors(heads=3, anchors=count)[1:]]
    broken = parameters[["anchors", "references", "return_references"].index(which)]
    broken[2, 1, 0] = broken[1, 0, 2] = value
    for parameter in parameters:
        parameter.requires_grad_(training)
    with pytest.raises(NonFiniteError, match=f"^{which} must be finite, .* in head 1$"):
        fold(*parameters, 2.0)


@pytest.mark.parametrize("anchors", [4, 32])
def test_what_lapack_refuses_is_named_where_values_are_not_looked_at(anchors):
    matrix = torch.eye(anchors, dtype=torch.float64).repeat(3, 1, 1)
    matrix[1, 1] = matrix[1, :, 1] = float("nan")
    try:
        root, _, _ = _InverseSquareRoot.apply(matrix)
    except NonFiniteError as error:
        assert error.head == 1
    else:
        assert anchors == 32 and root[1].isnan().all()


class Folding(torch.nn.Module):
    def forward(self, *parameters):
        return fold_maps(*parameters)


def test_values_are_not_looked_at_where_there_are_none():
    parameters = [t.detach() for t in random_tensors(anchors=32)[1:]]
    parameters[0][0] = float("nan")
    with FakeTensorMode() as mode:
        maps = fold(*map(mode.from_tensor, parameters), 2.0)[:3]
    assert [m.shape for m in maps] == [(2, 32, 5), (2, 32, 12), (2, 32, 32)]
    exported = torch.export.export(Folding(), tuple(random_tensors(anchors=32)[1:]))
    assert exported.module()(*parameters)[2][0].isnan().all()
    compiled = torch.compile(fold_maps, fullgraph=True, backend="eager")
    for actual, expected in zip(compiled(*random_tensors()[1:]), maps):
        assert actual.dtype == expected.dtype
    assert compiled(*parameters)[2][0].isnan().all()


def test_casting_keeps_alpha_and_shares_what_does_not_change():
    folded = fold(*random_tensors()[1:], 3.0)
    cast = folded.to(torch.float32)
    assert isinstance(cast, Folded) and cast.alpha == 3.0
    assert all(t.dtype == torch.float32 for t in cast[:3])
    assert all(a is b for a, b in zip(folded[:3], folded.to(torch.float64)[:3]))


def test_without_return_references_the_ways_are_the_same():
    _, anchors, references, _ = random_tensors()
    folded = fold(anchors, references, None, 2.0)
    way_in, way_back = folded.score_maps.chunk(2, -1)
    assert torch.equal(way_in, way_back)
    assert folded.num_references == references.shape[1]


def test_onnx_is_refused(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    match = r"call the model's switch_to_deploy\(\)"
    with pytest.raises(RuntimeError, match=match), pytest.warns(match=match):
        fold_maps(*random_tensors()[1:])
