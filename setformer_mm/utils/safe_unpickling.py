"""What may be called when a checkpoint or a file of predictions is unpickled.

mmengine's checkpoints hold its ``HistoryBuffer``, and with each the four methods that
make its statistics, which pickle fetches by ``getattr``. mmengine therefore allows
``getattr`` itself, and with it any attribute of any object: the globals of a method's
module, and from there everything. Here it serves these four methods alone.

Arrays come by ``numpy.ndarray`` and ``numpy.dtype``, which make an array of objects out
of any bytes, too: whoever looks into it follows their addresses, and runs what is
there. Here they make nothing but arrays of numbers, whose bytes numpy counts.
"""

from collections.abc import Callable
from pickle import UnpicklingError

import numpy as np
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import get_torch_safe_globals

_STATISTICS = ("min", "max", "current", "mean")
# Scalars of these types are what metrics return and a best score may be.
_SCALARS = (np.bool_, np.uint8, np.uint32, np.int32, np.int64, np.float32, np.float64)
# Truth values, integers, and floating and complex numbers.
_KINDS_OF_NUMBERS = "biufc"

_reconstruct = np.zeros(0).__reduce__()[0]  # whose module depends on numpy's version


def safe_globals() -> list[Callable]:
    """What ``torch.serialization.safe_globals`` takes: what mmengine allows, types of
    scalars, and stand-ins for what would give access to more.
    """
    replaced = getattr, _reconstruct, np.ndarray, np.dtype
    allowed = [each for each in get_torch_safe_globals() if each not in replaced]
    return [*allowed, *_scalar_types(), _statistic, empty_array, number_type, ARRAY]


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

    def __eq__(self, other: object) -> bool:
        return other is np.ndarray or other is self

    def __hash__(self) -> int:
        return hash(np.ndarray)


ARRAY = _Array()

# torch finds what it allows by these.
for _stand_in, _original in (
    (_statistic, getattr),
    (empty_array, _reconstruct),
    (number_type, np.dtype),
    (ARRAY, np.ndarray),
):
    _stand_in.__module__ = _original.__module__
    _stand_in.__name__ = _stand_in.__qualname__ = _original.__qualname__
