"""Random cases of the operator, on which kernels are held against the reference."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from setformer_mm.ops import fold, set_attention
from setformer_mm.ops.positions import smallest_best_exponent

from .problems import GEOMETRIES, clustered_tensors, random_tensors

NAMES = ("out", "x", "anchors", "references")
EPSILONS = (0.01, 0.03, 0.05, 0.1, 0.1, 0.3, 1.0)
ILL_CONDITIONED = 1e4


def grid_of(count: int) -> tuple[int, int]:
    """Sides of a grid of ``count`` cells."""
    sides = [side for side in range(1, count + 1) if count % side == 0]
    height = random.choice(sides)
    return height, count // height


def random_case(
    max_tokens: int,
    max_heads: int,
    min_epsilon: float = 0.01,
    min_exponent: float = -100.0,
) -> tuple[list[Tensor], dict]:
    """Tensors in float64, and arguments of the operator within the kernels' range."""
    dim = random.choice([16, 32, 64])
    sizes = dict(
        batch=random.choice([1, 1, 2, 3]),
        tokens=random.randint(1, max_tokens),
        heads=random.randint(1, max_heads),
        dim=dim,
        anchors=dim,
        references=random.randint(1, 128),
    )
    clustered = random.random() < 0.5
    tensors = clustered_tensors(**sizes) if clustered else random_tensors(**sizes)
    fields = dict(
        epsilon=random.choice([e for e in EPSILONS if e >= min_epsilon]),
        num_iters=random.randint(0, 10),
        alpha=random.choice([2.0, 4.0]),
        tau=random.choice([0.1, 0.15, 0.5]),
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
        # A grid of one row against one of one column: wider weights.
        while smallest_best_exponent(*geometry, fields["tau"]) < min_exponent:
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


def errors(actual: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """Norm-relative errors of what is not exactly zero.

    Gradients that nearly cancel are measured against 1e-3 of the output's gradient,
    whose elements are of the size of 1.
    """
    found = {}
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        floor = 1e-3 * e.numel() ** 0.5 if name != "out" else 0.0
        if e.any():
            found[name] = ((a.double() - e).norm() / max(e.norm(), floor)).item()
    if expected[3].shape[1] == 1:
        # One reference is given the same whatever it is: rounding errors are left.
        found.pop("references", None)
        assert actual[3].abs().max() < 1e-4
    return found


def tolerance(name: str, dtype: torch.dtype, epsilon: float, condition: float) -> float:
    if dtype == torch.bfloat16:
        return 2e-2 if epsilon >= 0.1 else 5e-2
    if dtype == torch.float16:
        return 5e-3 if epsilon >= 0.1 else 1e-2
    # Kernel features are rounded to float32, which k(z, z)^-1/2 amplifies.
    amplification = max(1.0, (condition / ILL_CONDITIONED) ** 0.5)
    return (1e-5 if name == "out" else 1e-4) * amplification


def check_case(
    tensors: list[Tensor], fields: dict, dtype: torch.dtype, **kernel
) -> None:
    """Hold a kernel against the reference in float64, and against its second run.

    Args:
        tensors (list[Tensor]): Tokens, anchors, references.
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
    found = errors(actual, expected)
    epsilon = fields.get("epsilon", 0.1)
    limits = {name: tolerance(name, dtype, epsilon, amplifying) for name in found}
    if any(found[name] > limits[name] for name in found):
        # Where a gradient nearly cancels, as of a single token, float32 is not that
        # exact.
        plain = run(tensors, dtype, backend="reference", **fields)
        for name, error in errors(plain, expected).items():
            limits[name] = max(limits[name], 2 * error)
    for name, error in found.items():
        assert error <= limits[name], f"{name} {dtype}: {error:.1e} in {case}"
    for a, b in zip(actual, run(tensors, dtype, **kernel, **fields)):
        assert torch.equal(a, b), f"other values the second time in {case}"
