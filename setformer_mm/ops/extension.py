"""The compiled extension: loaded here and nowhere else, or why it is not.

Its two libraries, one of operators for the CPU and one of their kernels for CUDA, run
under every torch since 2.10 and every Python since 3.10, because they are built on the
stable ABI of both.
"""

import os
from importlib import import_module
from types import ModuleType

import torch

DISABLE_VARIABLE = "SETFORMER_MM_DISABLE_EXT"
KERNELS_VARIABLE = "SETFORMER_MM_CPU_KERNELS"
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
MIN_TORCH = (2, 10)


def why_not_to_load() -> str | None:
    """Why the extension is not even looked for, and what to do; None if it is."""
    if os.environ.get(DISABLE_VARIABLE) == "1":
        return f"the extension is disabled; unset {DISABLE_VARIABLE}"
    if tuple(map(int, torch.__version__.split(".")[:2])) < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        return f"the extension needs torch {needed} or newer; upgrade torch"
    return None


def _load(name: str, missing: str) -> tuple[ModuleType | None, str | None]:
    """Load a library, which registers what it has in ``torch.ops.setformer_mm``.

    Args:
        name (str): Its name in this package.
        missing (str): What to say, and to do, if it is not there.

    Returns:
        tuple[ModuleType | None, str | None]: The library, or why it cannot be loaded
        and what to do.
    """
    try:
        return import_module(f".{name}", __package__), None
    except ModuleNotFoundError:
        return None, missing
    except ImportError as error:
        return None, (
            f"the extension does not load ({error}); install setformer_mm anew, with a "
            "wheel for this machine or from its sources"
        )


def _load_operators() -> tuple[str | None, str | None]:
    """Load the operators and their kernels for the CPU.

    Returns:
        tuple[str | None, str | None]: Why that cannot be, and what to do; and the
        instruction set of the kernels. One of them is None.
    """
    why_not = why_not_to_load()
    if why_not is not None:
        return why_not, None
    widest = os.environ.get(KERNELS_VARIABLE)
    if widest and widest not in INSTRUCTION_SETS:
        raise ValueError(
            f"{KERNELS_VARIABLE} must be one of {', '.join(INSTRUCTION_SETS)}, "
            f"got {widest!r}"
        )
    library, why_not = _load(
        "_C",
        "the extension is not built; install a wheel of setformer_mm, or run "
        "'pip install --no-build-isolation .' in its sources with a C++ compiler",
    )
    return why_not, None if library is None else library.instruction_set


def _load_cuda_kernels() -> str | None:
    """Load the operators' kernels for CUDA, or say why not and what to do."""
    if WHY_MISSING is not None:
        return WHY_MISSING
    if torch.version.cuda is None:
        return "this torch has no CUDA; install one that has"
    _, why_not = _load(
        "_C_cuda",
        "the CUDA kernels are not built; install setformer_mm from its sources where "
        "there is an nvcc and torch sees a GPU, or with FORCE_CUDA=1",
    )
    return why_not


WHY_MISSING, INSTRUCTION_SET = _load_operators()
WHY_CUDA_MISSING = _load_cuda_kernels()
