"""Predictions that ``tools/test.py --out`` dumps: read without executing anything.

mmengine writes them with ``pickle``, which may call anything when it reads.
"""

import io
import os
import pickle
from typing import Any

import torch

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.safe_unpickling import (
    ARRAY,
    ARRAY_MODULES,
    empty_array,
    number_type,
)

# What predictions are made of beside plain values: tensors, arrays, encoded masks.
_ALLOWED = {
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor_v2"),
    *((module, "scalar") for module in ARRAY_MODULES),
}


def read_predictions(path: str | os.PathLike) -> list[dict]:
    """Read what ``tools/test.py --out`` has written: one dict a picture.

    Raises:
        UserError: if there is no such file, or it is anything else, as a file that
            would execute code.
    """
    rule = f"{path} is not a file that tools/test.py --out has written"
    try:
        with open(path, "rb") as file:
            samples = _Unpickler(file).load()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # of any type: bytes that are no pickle raise what comes
        raise UserError(f"{rule}: {error}") from error
    if not isinstance(samples, list) or not all(isinstance(s, dict) for s in samples):
        raise UserError(f"{rule}: it holds no list of dicts")
    return samples


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def _load_storage(content: bytes) -> Any:
    """Stand in for torch's own, which lets the content execute what it likes."""
    return torch.load(io.BytesIO(content), weights_only=True)


_STAND_INS = {
    ("torch.storage", "_load_from_bytes"): _load_storage,
    **{(module, "_reconstruct"): empty_array for module in ARRAY_MODULES},
    ("numpy", "dtype"): number_type,
    ("numpy", "ndarray"): ARRAY,
}
