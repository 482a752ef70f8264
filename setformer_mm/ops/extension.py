"""The compiled extension: loaded here and nowhere else, or why it is not.

One binary runs under every torch since 2.10 and every Python since 3.10, because it is
built on the stable ABI of both.
"""

import os
from importlib import import_module

import torch

DISABLE_VARIABLE = "SETFORMER_MM_DISABLE_EXT"
MIN_TORCH = (2, 10)


def why_not_to_load() -> str | None:
    """Why the extension is not even looked for, and what to do; None if it is."""
    if os.environ.get(DISABLE_VARIABLE) == "1":
        return f"the extension is disabled; unset {DISABLE_VARIABLE}"
    if tuple(map(int, torch.__version__.split(".")[:2])) < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        return f"the extension needs torch {needed} or newer; upgrade torch"
    return None


def _load() -> tuple[str | None, str | None]:
    """Load the library, which registers its operators in ``torch.ops.setformer_mm``.

    Returns:
        tuple[str | None, str | None]: Why that cannot be, and what to do; and the
        instruction set of the kernels. One of them is None.
    """
    why_not = why_not_to_load()
    if why_not is not None:
        return why_not, None
    try:
        library = import_module("._C", __package__)
    except ModuleNotFoundError:
        return (
            "the extension is not built; install a wheel of setformer_mm, or run "
            "'pip install --no-build-isolation .' in its sources with a C++ compiler",
            None,
        )
    except ImportError as error:
        return (
            f"the extension does not load ({error}); install setformer_mm anew, with a "
            "wheel for this machine or from its sources",
            None,
        )
    return None, library.instruction_set


WHY_MISSING, INSTRUCTION_SET = _load()
