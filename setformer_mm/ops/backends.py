"""Which implementation of the operator runs, and why another one does not.

Every backend has one predicate, which selects it or words the reason against it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import extension
from .positions import smallest_exponent
from .reference import set_attention_reference
from .registration import set_attention_compiled

# The kernels multiply plans by position weights. Smaller weights could take the best
# reference of a token out of the range of float32; the reference adds exponents.
_MIN_EXPONENT = -80.0
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# What Sinkhorn's scalings may grow to, as an exponent, in float32: kLift in
# csrc/problem.h. The CPU kernels compute with float64 beyond it.
_MAX_SCALING_EXPONENT = 40.0

# What the CUDA kernels are compiled for: csrc/cuda/set_attention_cuda.h. They compute
# in float32.
_CUDA_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_WIDTH = 64
_MAX_REFERENCES = 128
_MIN_CAPABILITY = (8, 0)


class Problem(NamedTuple):
    """What a choice may depend on beside the machine.

    Attributes:
        x (Tensor): Tokens.
        epsilon (float): Entropic regularisation.
        num_iters (int): Sinkhorn iterations.
        tau (float, optional): Width of the position weights.
        geometry (tuple): First four arguments of
            :func:`setformer_mm.ops.positions.position_exponents`.
        num_anchors (int): ``K``.
    """

    x: Tensor
    epsilon: float
    num_iters: int
    tau: float | None
    geometry: tuple
    num_anchors: int


def _why_not_cuda(problem: Problem | None) -> str | None:
    if extension.WHY_CUDA_MISSING is not None:
        return extension.WHY_CUDA_MISSING
    if problem is None:
        sees_gpu = torch.cuda.is_available()
        return None if sees_gpu else "torch sees no GPU; see torch.cuda.is_available()"
    if (why_not := _why_torch_alone()) is not None:
        return why_not
    x, epsilon, num_iters, tau, geometry, num_anchors = problem
    if x.device.type != "cuda":
        return f"it takes tensors on a GPU, got {x.device}"
    if x.dtype not in _CUDA_DTYPES:
        return f"it takes float32, bfloat16 or float16, got {x.dtype}"
    dim, num_references = int(x.shape[-1]), geometry[-1]
    if max(dim, num_anchors) > _MAX_WIDTH or num_references > _MAX_REFERENCES:
        return (
            f"it takes at most {_MAX_WIDTH} channels and anchors and {_MAX_REFERENCES} "
            f"references a head, got {dim}, {num_anchors} and {num_references}"
        )
    if _weights_vanish(tau, geometry):
        return f"tau = {tau} is too small for it"
    if not _scalings_fit_float32(epsilon, num_iters, geometry):
        return (
            f"num_iters = {num_iters} are too many for it with so many tokens and an "
            f"epsilon below {2 / _MAX_SCALING_EXPONENT}, got {epsilon}"
        )
    capability = _compute_capability(x.device.index)
    if capability < _MIN_CAPABILITY:
        return (
            "it takes GPUs of compute capability "
            f"{'.'.join(map(str, _MIN_CAPABILITY))} or newer, "
            f"got {'.'.join(map(str, capability))}"
        )
    return None


def _why_torch_alone() -> str | None:
    """Why nothing but torch's own operators will do at present; None if others do."""
    if torch.onnx.is_in_onnx_export():
        return (
            "ONNX knows torch's own operators alone, and torch.onnx.export is at work"
        )
    if (
        not torch.compiler.is_compiling()
        and torch._C._are_functorch_transforms_active()
    ):
        return "it is not for the transforms of torch.func, as grad and vmap"
    return None


def _compute_capability(device_index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device_index)


# All that torch.compiler.assume_constant_result does once it has imported the compiler,
# which takes longer than the rest of this package together.
_compute_capability._dynamo_marked_constant = True


def _why_not_cpu(problem: Problem | None) -> str | None:
    if extension.WHY_MISSING is not None:
        return extension.WHY_MISSING
    if problem is None:
        return None
    if (why_not := _why_torch_alone()) is not None:
        return why_not
    x, _, _, tau, geometry, _ = problem
    if x.device.type != "cpu":
        return f"it takes tensors on the CPU, got {x.device}"
    if x.dtype not in _DTYPES:
        return f"it takes float32, float64, bfloat16 or float16, got {x.dtype}"
    if _weights_vanish(tau, geometry):
        return f"tau = {tau} is too small for it"
    return None


def _weights_vanish(tau: float | None, geometry: tuple) -> bool:
    """Whether some position weight may be below ``exp(_MIN_EXPONENT)``."""
    return tau is not None and smallest_exponent(*geometry, tau) < _MIN_EXPONENT


def _scalings_fit_float32(epsilon: float, num_iters: int, geometry: tuple) -> bool:
    """Whether Sinkhorn's scalings stay in the range that csrc/problem.h derives."""
    *_, num_tokens, num_references = geometry
    return (
        num_iters * math.log(max(num_tokens, num_references)) <= _MAX_SCALING_EXPONENT
        or 2 / epsilon <= _MAX_SCALING_EXPONENT
    )


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
