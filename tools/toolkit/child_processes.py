"""Processes that do not outlive the tool that started them."""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def start_child(command: Sequence[object], **options) -> subprocess.Popen:
    """Start a process that ends when this one does.

    On Linux the kernel sees to it, however this process ends, SIGKILL included.
    Elsewhere it takes an end that this process can notice: its own, an error, Ctrl-C
    or SIGTERM.

    Call it from the main thread: the kernel takes a thread's end for its process's.

    Args:
        command: as of :class:`subprocess.Popen`, as the options.
        options: all but ``preexec_fn``.
    """
    if sys.platform == "linux":
        return subprocess.Popen(command, preexec_fn=_end_with(os.getpid()), **options)
    child = subprocess.Popen(command, **options)
    _end_at_exit(child)
    return child


def run_child(command: Sequence[object], **options) -> int:
    """Run a process as :func:`start_child` does, and return its exit status."""
    child = start_child(command, **options)
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def _end_with(parent: int) -> Callable[[], None]:
    """What a new process does before its program begins."""
    # Found before the fork, after which only little is safe to do.
    prctl = ctypes.CDLL(None).prctl

    def ask_the_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return ask_the_kernel


def _end_at_exit(child: subprocess.Popen) -> None:
    """End the child when this process's interpreter ends."""
    atexit.register(child.kill)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        # By default it ends the process without a word to the interpreter.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
