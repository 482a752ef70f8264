"""Which implementation of the operator runs, and why another one does not.

Every backend has one predicate, which selects it or words the reason against it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import extension
from .positions import smallest_best_exponent
from .reference import set_attention_reference
from .registration import set_attention_compiled

# Where the compiled kernels have been tested; the reference has no such bounds.
_MIN_EPSILON = 0.01
_MIN_EXPONENT = -100.0
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Problem(NamedTuple):
    """What a choice may depend on beside the machine.

    Attributes:
        x (Tensor): Tokens.
        epsilon (float): Entropic regularisation.
        tau (float, optional): Width of the position weights.
        geometry (tuple): First four arguments of
            :func:`setformer_mm.ops.positions.position_exponents`.
    """

    x: Tensor
    epsilon: float
    tau: float | None
    geometry: tuple


def _why_not_cuda(problem: Problem | None) -> str | None:
    return "this version has no compiled CUDA kernel"


def _why_not_cpu(problem: Problem | None) -> str | None:
    if extension.WHY_MISSING is not None:
        return extension.WHY_MISSING
    if problem is None:
        return None
    x, epsilon, tau, geometry = problem
    if x.device.type != "cpu":
        return f"it takes tensors on the CPU, got {x.device}"
    if x.dtype not in _DTYPES:
        return f"it takes float32, float64, bfloat16 or float16, got {x.dtype}"
    if epsilon < _MIN_EPSILON:
        return f"it takes an epsilon of at least {_MIN_EPSILON}, got {epsilon}"
    if tau is not None and smallest_best_exponent(*geometry, tau) < _MIN_EXPONENT:
        return f"tau = {tau} is too small for it with so few tokens or references"
    return None


def _why_not_reference(problem: Problem | None) -> str | None:
    return None


class _Backend(NamedTuple):
    why_not: Callable[[Problem | None], str | None]
    run: Callable[..., Tensor]


_BACKENDS: dict[str, _Backend] = {
    "cuda": _Backend(_why_not_cuda, set_attention_compiled),
    "cpu": _Backend(_why_not_cpu, set_attention_compiled),
    "reference": _Backend(_why_not_reference, set_attention_reference),
}


def available_backends() -> dict[str, str | None]:
    """Name every backend with the reason why it cannot be used, None if it can.

    Returns:
        dict[str, str | None]: In the order in which ``backend="auto"`` considers them.
    """
    return {name: backend.why_not(None) for name, backend in _BACKENDS.items()}


def select_backend(name: str, problem: Problem | None = None) -> Callable[..., Tensor]:
    """Find the implementation behind a ``backend`` argument.

    Args:
        name (str): "auto" (the first one that can be used) or a backend's name.
        problem (Problem, optional): What is to be computed; without it, the answer is
            about this machine alone.

    Returns:
        Callable[..., Tensor]: The operator over ``x`` and a ``Folded``.

    Raises:
        ValueError: If ``name`` is unknown or that backend cannot be used.
    """
    if name == "auto":
        for backend in _BACKENDS.values():
            if backend.why_not(problem) is None:
                return backend.run
    if name not in _BACKENDS:
        names = ", ".join(map(repr, ("auto", *_BACKENDS)))
        raise ValueError(f"backend must be one of {names}, got {name!r}")
    why_not = _BACKENDS[name].why_not(problem)
    if why_not is not None:
        raise ValueError(f"backend {name!r} cannot be used: {why_not}")
    return _BACKENDS[name].run
