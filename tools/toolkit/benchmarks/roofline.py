"""What a problem must cost at least, and how long that takes at a machine's best rates.

Whatever an implementation does, it reads its inputs and writes its results once, takes
the exponentials of the kernel features and of the Gibbs kernel, and multiplies and adds
what the formula says. Maps of the parameters are small beside the tokens and left out.
"""

from typing import NamedTuple

import torch

from setformer_mm.ops.flops import backward_multiply_adds, forward_multiply_adds

from .contenders import FORWARD, NUM_ITERS
from .problems import Problem


class Cost(NamedTuple):
    """What has to be done."""

    moved_bytes: int
    exponentials: int
    multiply_adds: int


class Ceilings(NamedTuple):
    """Rates that a machine does not exceed, per second; None where they are unknown.

    Attributes:
        moved_bytes: Read and written by a large copy.
        exponentials: Of all multiprocessors at their highest clock.
        multiply_adds: Of a large matrix product in the dtype.
    """

    moved_bytes: float
    exponentials: float | None
    multiply_adds: float


def cost(problem: Problem, direction: str, dtype: torch.dtype) -> Cost:
    """Count what a direction costs at least.

    The forward pass reads the tokens and writes the output. The backward pass, before
    which tokens may have left the caches, reads tokens and the gradient of the output,
    takes all exponentials again, and writes the gradient of the tokens.
    """
    rows = problem.batch * problem.heads * problem.tokens
    tensor_bytes = rows * problem.dim * dtype.itemsize
    exponentials = rows * (problem.dim + 2 * problem.references)
    shapes = (
        (problem.batch, problem.tokens, problem.heads, problem.dim),
        (problem.heads, problem.dim, 2 * problem.references),
        NUM_ITERS,
    )
    multiply_adds = forward_multiply_adds(*shapes)
    if direction == FORWARD:
        return Cost(2 * tensor_bytes, exponentials, multiply_adds)
    return Cost(
        5 * tensor_bytes,
        2 * exponentials,
        multiply_adds + backward_multiply_adds(*shapes),
    )


def floors(cost: Cost, ceilings: Ceilings) -> dict[str, float]:
    """Seconds that each kind of work takes at its ceiling, where that is known."""
    return {
        kind: getattr(cost, kind) / ceiling
        for kind, ceiling in ceilings._asdict().items()
        if ceiling is not None
    }
