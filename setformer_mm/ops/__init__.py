"""SeT attention as an operator. Needs torch and nothing else."""

from .backends import available_backends
from .fold import Folded, NonFiniteError, fold
from .set_attention import (
    check_fields,
    set_attention,
    set_attention_folded,
    transport_plan,
)

__all__ = [
    "Folded",
    "NonFiniteError",
    "available_backends",
    "check_fields",
    "fold",
    "set_attention",
    "set_attention_folded",
    "transport_plan",
]
