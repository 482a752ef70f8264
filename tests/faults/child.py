"""Work in forked processes: a start takes milliseconds, and a crash ends one alone."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import cv2
import torch
from in_process import TOY

from toolkit.launch import run_tool

from .campaign import Fault

FORK = multiprocessing.get_context("fork")
# Of a case that takes seconds, on a machine that is busy.
PATIENCE = 300


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        status: of its exit; minus the number of a signal that killed it.
        out: what it wrote to its standard output.
        errors: what it wrote to its standard error.
    """

    status: int
    out: str
    errors: str

    @property
    def sentence(self) -> str:
        """What a tool ended with.

        Raises:
            Fault: unless that is one sentence and status 1.
        """
        self.require(1)
        *_, last = self.errors.strip().splitlines() or [""]
        if not last.startswith("error: ") or self.errors.count("error: ") != 1:
            raise Fault(f"no one sentence at the end of {self.errors[-3000:]!r}")
        return last.removeprefix("error: ")

    def require(self, status: int) -> None:
        """Check the status, and that there is no trace."""
        if self.status != status or "Traceback" in self.out + self.errors:
            raise Fault(f"status {self.status}: {(self.out + self.errors)[-3000:]}")


class Child:
    """A process that does some work as a tool does: see :func:`run_tool`."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.out, self.errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.process = FORK.Process(target=_run, args=(work, self.out, self.errors))
        self.process.start()

    def kill(self) -> None:
        """By SIGKILL; one that has ended stays as it is."""
        self.process.kill()

    def wait(self, seconds: float = PATIENCE) -> End:
        """Wait for its end.

        Raises:
            Fault: if there is none; it is killed then.
        """
        self.process.join(seconds)
        hangs = self.process.exitcode is None
        if hangs:
            self.kill()
            self.process.join()
        end = End(self.process.exitcode, _text(self.out), _text(self.errors))
        self.process.close()
        if hangs:
            raise Fault(f"no end after {seconds:g} s: {end.out + end.errors}")
        return end


def run(work: Callable[[], object]) -> End:
    """Do some work in a process of its own, to its end."""
    return Child(work).wait()


def _run(work: Callable[[], object], out: IO, errors: IO) -> None:
    for descriptor, file in enumerate((out, errors), start=1):
        os.dup2(file.fileno(), descriptor)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.path.insert(0, str(TOY))
    # Pools of threads do not survive a fork, and a new one would be waited for.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    run_tool(work)


def _text(file: IO) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")
