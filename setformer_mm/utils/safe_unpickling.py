"""What torch's ``weights_only`` unpickler may call when it reads a checkpoint.

mmengine's checkpoints hold its ``HistoryBuffer``, and with each the four methods that
make its statistics, which pickle fetches by ``getattr``. mmengine therefore allows
``getattr`` itself, and with it any attribute of any object: the globals of a method's
module, and from there everything. Here it serves these four methods alone.
"""

from collections.abc import Callable
from pickle import UnpicklingError

import numpy as np
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import get_torch_safe_globals

_STATISTICS = ("min", "max", "current", "mean")
# Scalars of these types are what metrics return and a best score may be.
_SCALARS = (np.bool_, np.uint8, np.uint32, np.int32, np.int64, np.float32, np.float64)


def safe_globals() -> list[Callable]:
    """Callables for ``torch.serialization.safe_globals``: those that mmengine allows,
    types of scalars, and a ``getattr`` that gives statistics of ``HistoryBuffer``.
    """
    allowed = [each for each in get_torch_safe_globals() if each is not getattr]
    return [*allowed, *_scalar_types(), _statistic]


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


# torch finds what it allows by these.
_statistic.__module__, _statistic.__name__ = "builtins", "getattr"
_statistic.__qualname__ = "getattr"
