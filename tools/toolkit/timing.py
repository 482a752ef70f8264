"""How times are taken: contenders side by side.

They take turns in one process, round after round, so that a change of the clock or
other work on the machine meets all of them alike; the first to run changes from round
to round. Reported are medians over the rounds, and ratios of medians between the ratios
of opposite quartiles.
"""

import os
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

Call = Callable[[], object]


class Ratio(NamedTuple):
    """A ratio of medians, and the ratios of opposite quartiles."""

    value: float
    low: float
    high: float


def interleave(
    calls: Mapping[str, Call],
    device: str,
    rounds: int,
    turn_seconds: float = 0.0,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time ``calls``, which have run before, side by side.

    Args:
        calls: Contenders by name.
        device: "cpu" or "cuda".
        rounds: How often each contender gets its turn.
        turn_seconds: A turn repeats its call for about so long, if it is shorter.
        tick: Called after every turn.

    Returns:
        dict: Seconds a call, one number a round, for each contender.
    """
    repeats = dict.fromkeys(calls, 1)
    if turn_seconds:
        for name, call in calls.items():
            seconds = max(seconds_a_call(call, device, 1), 1e-9)
            repeats[name] = min(max(1, round(turn_seconds / seconds)), 10_000)
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = deque(calls)
    for _ in range(rounds):
        for name in order:
            times[name].append(seconds_a_call(calls[name], device, repeats[name]))
            tick()
        order.rotate(-1)
    return times


def ratio(times: list[float], others: list[float]) -> Ratio:
    """How many times as long ``times`` are as ``others``."""
    low, value, high = quartiles(times)
    other_low, other, other_high = quartiles(others)
    return Ratio(value / other, low / other_high, high / other_low)


def quartiles(times: list[float]) -> list[float]:
    """The three quartiles; of one time, three times itself."""
    if len(times) < 2:
        return times * 3
    return statistics.quantiles(times, n=4, method="inclusive")


def environment(device: str) -> dict[str, object]:
    """What a reader has to know to judge the figures of a run."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "cpus": _cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def seconds_a_call(call: Call, device: str, repeats: int) -> float:
    """Seconds a call, over ``repeats`` of them."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / repeats
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _cpu_count() -> int | None:
    """CPUs this process may use, where the operating system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
