"""Computing in the dtypes that are given, whatever autocast wants."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which autocast is off on ``x``'s device; meta has no autocast."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
