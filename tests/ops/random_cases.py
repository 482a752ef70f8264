"""Random cases of the operator, on which kernels are held against the reference."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from setformer_mm.ops import fold, set_attention
from setformer_mm.ops.positions import smallest_exponent

from .problems import GEOMETRIES, clustered_tensors, random_tensors

NAMES = ("out", "x", "anchors", "references", "return_references")
EPSILONS = (0.001, 0.003, 0.01, 0.01, 0.03, 0.1, 1.0, 10.0)
ILL_CONDITIONED = 1e4
MIN_EXPONENT = -80.0  # of position weights, in the kernels


def grid_of(count: int) -> tuple[int, int]:
    """Sides of a grid of ``count`` cells."""
    sides = [side for side in range(1, count + 1) if count % side == 0]
    height = random.choice(sides)
    return height, count // height


def random_case(
    max_tokens: int, max_heads: int, max_iters: int = 20
) -> tuple[list[Tensor], dict]:
    """Tensors in float64, and arguments of the operator within the kernels' range."""
    dim = random.choice([16, 32, 64])
    sizes = dict(
        batch=random.choice([1, 1, 2, 3]),
        tokens=random.randint(1, max_tokens),
        heads=random.randint(1, max_heads),
        dim=dim,
        anchors=dim,
        references=random.choice([16, 16, random.randint(1, 128)]),
    )
    clustered = random.random() < 0.5
    tensors = clustered_tensors(**sizes) if clustered else random_tensors(**sizes)
    fields = dict(
        epsilon=random.choice(EPSILONS),
        num_iters=random.choice([0, 1, 1, 2, 3, 3, max_iters]),
        alpha=random.choice([2.0, 4.0]),
        tau=random.choice([0.15, 0.25, 0.5, 1.0]),
    )
    geometry = random.choice(GEOMETRIES)
    if geometry == "image":
        fields["spatial_shape"] = grid_of(sizes["tokens"])
        fields["reference_shape"] = grid_of(sizes["references"])
    if geometry == "no positions":
        fields["tau"] = None
    else:
        shapes = fields.get("spatial_shape"), fields.get("reference_shape")
        geometry = *shapes, sizes["tokens"], sizes["references"]
        while smallest_exponent(*geometry, fields["tau"]) < MIN_EXPONENT:
            fields["tau"] *= 2
    return [t.detach() for t in tensors], fields


def run(
    tensors: list[Tensor],
    dtype: torch.dtype,
    device: str = "cpu",
    attend: Callable[..., Tensor] = set_attention,
    **fields,
) -> list[Tensor]:
    """The output and the gradients of all inputs, on the CPU."""
    x, *parameters = (t.detach().to(device) for t in tensors)
    inputs = [t.requires_grad_() for t in (x.to(dtype), *map(torch.clone, parameters))]
    out = attend(*inputs, **fields)
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(out.shape, generator=generator).to(out)
    gradients = torch.autograd.grad(out, inputs, grad)
    return [t.detach().cpu() for t in (out, *gradients)]


def condition(tensors: list[Tensor], alpha: float) -> float:
    """The largest condition number of the heads' kernel matrices, ridge included."""
    roots = torch.linalg.eigvalsh(fold(*tensors[1:], alpha).value_map)
    return (roots[:, -1] / roots[:, 0]).max().item() ** 2


def errors(
    actual: list[Tensor], expected: list[Tensor], epsilon: float
) -> dict[str, float]:
    """Norm-relative errors of what is not exactly zero.

    Gradients that nearly cancel are measured against 1e-3 of the output's gradient,
    whose elements are of the size of 1, or, if that is more, against 1e-5 of these over
    epsilon, which is what they pass through.
    """
    found = {}
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        floor = max(1e-3, 1e-5 / epsilon) * e.numel() ** 0.5 if name != "out" else 0.0
        if e.any():
            found[name] = ((a.double() - e).norm() / max(e.norm(), floor)).item()
    for i in (3, 4):
        # A reference that has nothing to share with is given the same whatever it is:
        # rounding errors are left.
        if expected[i].shape[1] == 1 or expected[0].shape[1] == 1:
            found.pop(NAMES[i], None)
            assert actual[i].abs().max() < 1e-4 * max(1, 0.1 / epsilon)
    return found


def tolerance(name: str, dtype: torch.dtype, epsilon: float, condition: float) -> float:
    if dtype == torch.bfloat16:
        return 2e-2 if epsilon >= 0.1 else 5e-2
    if dtype == torch.float16:
        return 5e-3 if epsilon >= 0.1 else 1e-2
    # Kernel features are rounded to float32, which k(z, z)^-1/2 amplifies, and scores,
    # which are divided by epsilon.
    amplification = max(1.0, (condition / ILL_CONDITIONED) ** 0.5, 0.01 / epsilon)
    if name == "out":
        return 1e-5 * amplification
    # What passes through the scores shrinks with 1 / epsilon, beside rounding errors
    # of sums over tokens, which do not.
    return 1e-4 * amplification * max(1.0, epsilon**0.5)


def check_case(
    tensors: list[Tensor], fields: dict, dtype: torch.dtype, **kernel
) -> None:
    """Hold a kernel against the reference in float64, and against its second run.

    Args:
        tensors (list[Tensor]): Tokens, anchors, both sets of references.
        fields (dict): The other arguments of the operator.
        dtype (torch.dtype): Of the tokens.
        **kernel: Arguments of :func:`run` that choose it.
    """
    x, *parameters = tensors
    tensors = [x.to(dtype).double(), *parameters]
    amplifying = condition(tensors, fields.get("alpha", 2.0))
    case = f"{[tuple(t.shape) for t in tensors]}, {fields}, {amplifying:.0f}"
    expected = run(tensors, torch.float64, backend="reference", **fields)
    actual = run(tensors, dtype, **kernel, **fields)
    epsilon = fields.get("epsilon", 0.01)
    found = errors(actual, expected, epsilon)
    limits = {name: tolerance(name, dtype, epsilon, amplifying) for name in found}
    if any(found[name] > limits[name] for name in found):
        # Where a gradient nearly cancels, as of a single token, float32 is not that
        # exact.
        plain = run(tensors, dtype, backend="reference", **fields)
        for name, error in errors(plain, expected, epsilon).items():
            limits[name] = max(limits[name], 2 * error)
    for name, error in found.items():
        assert error <= limits[name], f"{name} {dtype}: {error:.1e} in {case}"
    for a, b in zip(actual, run(tensors, dtype, **kernel, **fields)):
        assert torch.equal(a, b), f"other values the second time in {case}"
