"""How the benchmarks measure beside :mod:`toolkit.timing`: peaks of memory,
times of the GPU alone, and what is checked before.

Memory: the peak during a call beyond what was there before it and what it returns. On a
CPU every call is measured in a process of its own, by the operating system's high water
of resident memory, which sees all memory alike, whoever allocates it, but for pages of
files, as code is. It is the first call, so that what an implementation allocates once
and keeps is seen, too. Before it, other work has started threads and libraries, and
glibc is told to return what is freed, so that nothing is reused which the measurement
would not see. On a GPU it is the peak of torch's allocator.
"""

import ctypes
import multiprocessing
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from setformer_mm.models import SeTAttention
from setformer_mm.ops import available_backends

from ..timing import Call, seconds_a_call

# A turn of a contender: it repeats calls that are shorter, which the clock and the
# scheduler would blur.
TURN_SECONDS = 0.02
# What takes long to import.
_SLOW = ("torch", "setformer_mm", "timm", "ot.batch")
# No GPU's clock is faster.
_MOST_CYCLES_A_SECOND = 3e9
# Numbers of glibc's mallopt.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def queued(call: Call, device: str, rounds: int, repeats: int = 10) -> list[float]:
    """Time ``call`` without what its host may take longer than the GPU.

    The GPU waits until all ``repeats`` calls of a round are in its queue, and then runs
    them one after the other. On a CPU there is no queue, and this times calls as usual.

    Args:
        call: Has run before.
        device: "cpu" or "cuda".
        rounds: How often to do so.
        repeats: Calls a round; the queue has room for about 1000 kernels.

    Returns:
        list[float]: Seconds a call, one number a round.
    """
    if device != "cuda":
        return [seconds_a_call(call, device, repeats) for _ in range(rounds)]
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    host_seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        torch.cuda._sleep(int(2 * host_seconds * _MOST_CYCLES_A_SECOND))
        times.append(seconds_a_call(call, device, repeats))
    return times


def peak_memory(
    prepare: Callable[..., Call],
    *args: object,
    device: str,
    threads: int,
    repeats: int,
    second_call: bool = False,
) -> int | None:
    """Measure the peak memory of ``prepare(*args)()``.

    Args:
        prepare: A function of a module that builds a call from picklable arguments.
            The call returns the tensors whose memory does not count.
        *args: Its arguments.
        device: "cpu" or "cuda".
        threads: Number of threads of the process measured.
        repeats: Number of processes, of whose results the median is taken.
        second_call: Measure the second call, where the first one compiles.

    Returns:
        int | None: Bytes, or None where the operating system does not tell.

    Raises:
        RuntimeError: If the call fails, or its process is killed.
    """
    if device == "cuda":
        return _peak_on_gpu(prepare(*args))
    if not Path("/proc/self/clear_refs").exists():
        return None
    job = threads, second_call, prepare, args
    return round(statistics.median(_peak_of_process(job) for _ in range(repeats)))


def backends_on(device: str) -> tuple[list[str], dict[str, str]]:
    """The operator's backends for a device, best first, and why others are missing."""
    missing = {}
    for name, reason in available_backends().items():
        if reason is None and name not in (device, "reference"):
            reason = f"it is not for tensors on {device}"
        if reason is not None:
            missing[name] = reason
    return [name for name in available_backends() if name not in missing], missing


def use_backend(model: nn.Module, backend: str) -> None:
    """Choose the implementation of the operator."""
    for module in model.modules():
        if isinstance(module, SeTAttention):
            module.backend = backend


def largest_share(found: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """The largest error, as a share of the largest entry that a tensor should have.

    NaN if any has one, which no comparison with a tolerance lets pass.
    """
    errors = [
        (one.double() - other).abs().max() / other.abs().max()
        for one, other in zip(found, true)
    ]
    return torch.stack(errors).max().item()


def _peak_on_gpu(call: Call) -> int:
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - _bytes_of(result)


def _peak_of_process(job: tuple) -> int:
    # Forked from a server that has imported what takes long and run nothing: quick to
    # start, and without the memory of this process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in _SLOW if name in sys.modules])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(sender, *job))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        outcome = "it was killed, perhaps for want of memory"
    process.join()
    if isinstance(outcome, str):
        raise RuntimeError(f"the process that measures memory failed: {outcome}")
    return outcome


def _report_peak(
    sender: Connection,
    threads: int,
    second_call: bool,
    prepare: Callable[..., Call],
    args: tuple,
) -> None:
    """Send bytes, or a string that says what went wrong."""
    try:
        torch.set_num_threads(threads)
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
            libc.mallopt(_M_TRIM_THRESHOLD, 1 << 16)
        _start_libraries()
        call = prepare(*args)
        if second_call:
            call()
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # resets the high water
        before = _memory_status()
        result = call()
        after = _memory_status()
        peak = after["VmHWM"] - before["VmRSS"]
        files = after["RssFile"] - before["RssFile"]
        sender.send(max(0, peak - files - _bytes_of(result)))
    except Exception:
        sender.send(traceback.format_exc())


def _start_libraries() -> None:
    """Run a bit of everything once, on all threads: both passes of some operators."""
    x = torch.randn(8, 64, 16, 16, requires_grad=True)
    weight = torch.randn(64, 64, 3, 3, requires_grad=True)
    y = F.conv2d(x, weight, padding=1).flatten(2).mT.contiguous()
    y = F.layer_norm(F.linear(y, weight[:, :, 0, 0]), (64,)).exp()
    y = torch.bmm(y, torch.bmm(y.mT, y))
    heads = y.view(8, 256, 2, 32).transpose(1, 2)
    F.scaled_dot_product_attention(heads, heads, heads).sum().backward()


def _bytes_of(result: object) -> int:
    """Bytes of all tensors in a structure, those that share memory counted once."""
    storages = {}
    for leaf in tree_leaves(result):
        if isinstance(leaf, torch.Tensor):
            storage = leaf.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _memory_status() -> dict[str, int]:
    """Bytes by the names that Linux gives them."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(kibibytes) for name, kibibytes, _ in fields}
