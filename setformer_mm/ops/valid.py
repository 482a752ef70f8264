"""Valid parts of padded inputs: what the rule for them is."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def has_values(tensor: Tensor) -> bool:
    """Whether there is more to it than a shape: it is neither meta nor fake."""
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


def is_traced() -> bool:
    """Whether what is computed becomes a graph, for which other inputs follow."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def inside(valid: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which rows and columns of each image are no padding.

    Args:
        valid (Tensor): Numbers of rows and columns, of shape ``(B, 2)``.
        sizes (Sequence[int]): Rows and columns of the whole, ``H`` and ``W``.

    Returns:
        tuple[Tensor, Tensor]: Of shapes ``(B, H)`` and ``(B, W)``, bool.
    """
    rows, cols = (
        torch.arange(n, device=valid.device) < valid[:, i, None]
        for i, n in enumerate(sizes)
    )
    return rows, cols


def check_valid(name: str, valid: Tensor, x: Tensor, most: Sequence[int]) -> None:
    """Check how much of each of ``B`` inputs is said to be valid.

    Values are looked at where that is cheap: on the CPU, and not for a graph.

    Args:
        name (str): What it is called in errors.
        valid (Tensor): Of shape ``(B, 2)`` for rows and columns, ``(B,)`` for lengths.
        x (Tensor): The inputs, ``B`` first.
        most (Sequence[int]): The size of the whole: two numbers, or one.

    Raises:
        TypeError: If it is no tensor, or not int64.
        ValueError: If its shape, device or a value is out of its rule.
    """
    if not isinstance(valid, Tensor) or valid.dtype != torch.int64:
        got = valid.dtype if isinstance(valid, Tensor) else type(valid).__name__
        raise TypeError(f"{name} must be an int64 tensor, got {got}")
    batch = x.shape[0]
    rule, shape = ("(B, 2)", (batch, 2)) if len(most) == 2 else ("(B,)", (batch,))
    # Element by element: as a tuple, an open batch would be closed.
    if valid.dim() != len(shape) or any(a != b for a, b in zip(valid.shape, shape)):
        raise ValueError(f"{name} must be {rule} = {shape}, got {tuple(valid.shape)}")
    if valid.device != x.device:
        raise ValueError(f"{name} must be on x's device {x.device}, got {valid.device}")
    if valid.device.type != "cpu" or is_traced() or not has_values(valid):
        return
    for row in valid.reshape(-1, len(most)).tolist():
        if not all(0 <= v <= m for v, m in zip(row, most)):
            raise ValueError(f"{name} must be in 0..{tuple(most)}, got {row}")
