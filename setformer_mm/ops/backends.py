"""Which implementations of the operator there are, and why others are not."""

from collections.abc import Callable

from torch import Tensor

from .reference import set_attention_reference

_IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "reference": set_attention_reference,
}
_UNAVAILABLE: dict[str, str] = {
    "cpu": "this version has no compiled CPU kernel",
    "cuda": "this version has no compiled CUDA kernel",
}


def available_backends() -> dict[str, str | None]:
    """Name every backend with the reason why it cannot be used, None if it can.

    Returns:
        dict[str, str | None]: In the order in which ``backend="auto"`` considers them.
    """
    return {**_UNAVAILABLE, **dict.fromkeys(_IMPLEMENTATIONS)}


def select_backend(name: str) -> Callable[..., Tensor]:
    """Find the implementation behind a ``backend`` argument.

    Args:
        name (str): "auto" (the first available one) or a backend's name.

    Returns:
        Callable[..., Tensor]: The operator over ``x`` and a ``Folded``.

    Raises:
        ValueError: If ``name`` is unknown or that backend is unavailable.
    """
    if name == "auto":
        return next(iter(_IMPLEMENTATIONS.values()))
    if name in _IMPLEMENTATIONS:
        return _IMPLEMENTATIONS[name]
    available = ", ".join(repr(n) for n in ("auto", *_IMPLEMENTATIONS))
    reasons = "; ".join(f"{n!r} is not: {why}" for n, why in _UNAVAILABLE.items())
    raise ValueError(f"backend must be one of {available} ({reasons}), got {name!r}")
