"""What may be called when a checkpoint or a file of predictions is unpickled.

mmengine's checkpoints hold its ``HistoryBuffer``, and with each the four methods that
make its statistics, which pickle fetches by ``getattr``. mmengine therefore allows
``getattr`` itself, and with it any attribute of any object: the globals of a method's
module, and from there everything. Here it serves these four methods alone.

Arrays come by ``numpy.ndarray`` and ``numpy.dtype``, which make an array of objects out
of any bytes, too: whoever looks into it follows their addresses, and runs what is
there. Here they make nothing but arrays of numbers, whose bytes numpy counts.

numpy 2 has another name for the module of ``_reconstruct`` and ``scalar`` than numpy 1;
a file of either is read beside either.
"""

from _codecs import encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_STATISTICS = ("min", "max", "current", "mean")
# Scalars of these types are what metrics return and a best score may be.
_SCALARS = (np.bool_, np.uint8, np.uint32, np.int32, np.int64, np.float32, np.float64)
# Truth values, integers, and floating and complex numbers.
_KINDS_OF_NUMBERS = "biufc"

_numpy_scalar = np.float64(0).__reduce__()[0]


@contextmanager
def safe_globals_allowed() -> Iterator[None]:
    """Let ``torch.load(..., weights_only=True)`` find :func:`safe_globals` for a while.

    torch 2.4 has no ``torch.serialization.safe_globals``, which would do this.
    """
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals(safe_globals())
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def safe_globals() -> list[Callable]:
    """What a checkpoint of mmengine needs besides tensors: statistics, types of
    scalars, the bytes of arrays, which torch 2.4 does not allow itself, and stand-ins
    for what would give access to more.
    """
    return [slice, HistoryBuffer, encode, *_scalar_types(), *_STAND_INS]


def _scalar_types() -> list[type]:
    return [type(np.dtype(kind)) for kind in _SCALARS]


def _statistic(owner: object, name: str) -> Callable:
    """Stand in for ``getattr``.

    Raises:
        UnpicklingError: if anything else than a statistic of HistoryBuffer is wanted.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UnpicklingError(
            f"GLOBAL builtins.getattr was not an allowed way to {name!r} of {owner!r}"
        )
    return getattr(HistoryBuffer, name)


def empty_array(*_: object) -> np.ndarray:
    """Stand in for numpy's ``_reconstruct``, whose array pickle fills afterwards."""
    return np.empty(0, np.uint8)


def number_type(name: object, *_: object) -> np.dtype:
    """Stand in for ``numpy.dtype``.

    Returns:
        np.dtype: numpy's own, in the machine's byte order. What a file then says of its
        state, numpy ignores; another one would take it, as sizes that are none.

    Raises:
        UnpicklingError: if it is no type of numbers.
    """
    kind = np.dtype(name) if isinstance(name, str) else None
    if (
        kind is None
        or kind.kind not in _KINDS_OF_NUMBERS
        or kind is not np.dtype(kind.type)
    ):
        raise UnpicklingError(
            f"GLOBAL numpy.dtype was not an allowed way to arrays of {name!r}"
        )
    return kind


class _Array:
    """Stand in for ``numpy.ndarray``: a name that pickle hands to ``_reconstruct`` and,
    for torch, the type of what comes out, but nothing that can be called.
    """

    def __init__(self) -> None:
        self.__module__, self.__name__, self.__qualname__ = "numpy", *["ndarray"] * 2

    def __eq__(self, other: object) -> bool:
        return other is np.ndarray or other is self

    def __hash__(self) -> int:
        return hash(np.ndarray)


ARRAY = _Array()


def _named(stand_in: Callable, module: str, name: str) -> Callable:
    """Give a stand-in the name by which torch finds what it allows.

    Returns:
        Callable: a copy, because one may stand in under two names.
    """

    def named(*args: object) -> object:
        return stand_in(*args)

    named.__module__, named.__name__, named.__qualname__ = module, name, name
    return named


_STAND_INS = [
    _named(_statistic, "builtins", "getattr"),
    _named(number_type, "numpy", "dtype"),
    ARRAY,
    *(_named(empty_array, module, "_reconstruct") for module in ARRAY_MODULES),
    *(_named(_numpy_scalar, module, "scalar") for module in ARRAY_MODULES),
]
