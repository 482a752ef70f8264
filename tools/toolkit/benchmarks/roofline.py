"""What a problem must cost at least, and how long that takes at a machine's best rates.

Whatever an implementation does, it reads its inputs and writes its results once, takes
the exponentials of the kernel features and of the Gibbs kernel, and multiplies and adds
what the formula says. Maps of the parameters are small beside the tokens and left out.
"""

import shutil
import subprocess
from statistics import median
from typing import NamedTuple

import torch

from setformer_mm.ops.flops import backward_multiply_adds, forward_multiply_adds

from ..timing import Call, interleave
from .contenders import DTYPES, FORWARD, NUM_ITERS
from .problems import Problem

# Exponentials a clock of a multiprocessor: "Throughput of Native Arithmetic
# Instructions" in NVIDIA's CUDA C++ Programming Guide, for every capability from 5.0.
EXPONENTIALS_A_CLOCK = 16


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


def measure_ceilings(device: str, quick: bool) -> dict[str, Ceilings]:
    """Measure the rates of a large copy and of large matrix products, by dtype."""
    copied = copy_rate(2**24 if quick else 2**31, device)
    exponentials = None
    if device == "cuda" and (clock := clock_rate()):
        processors = torch.cuda.get_device_properties(0).multi_processor_count
        exponentials = processors * EXPONENTIALS_A_CLOCK * clock
    side = 256 if quick else 8192
    # The kernels multiply float32 in TF32, and so does what they are held against.
    torch.set_float32_matmul_precision("high")
    ceilings = {}
    for name, dtype in DTYPES.items():
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        rate = side**3 / timed(lambda a=a, b=b: a @ b, device)
        ceilings[name] = Ceilings(copied, exponentials, rate)
    torch.set_float32_matmul_precision("highest")
    return ceilings


def copy_rate(size: int, device: str) -> float:
    """Bytes a second that a copy of ``size`` bytes reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / timed(lambda: target.copy_(source), device)


def timed(call: Call, device: str) -> float:
    """Median seconds of a call after some that do not count."""
    for _ in range(3):
        call()
    return median(interleave({"": call}, device, 7)[""])


def clock_rate() -> float | None:
    """Highest clock of the multiprocessors in Hz, as the driver states it."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, encoding="utf-8")
    try:
        return float(done.stdout.split()[0]) * 1e6
    except (IndexError, ValueError):
        return None
