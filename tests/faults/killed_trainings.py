"""Trainings that are killed, and resumed until they end."""

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from in_process import TOY, run_main
from mmengine.model import BaseModel

from .campaign import IDENTICAL, Case, Fault
from .child import Child, End, run
from .outputs import products

JOBS = {
    "by epochs": ("toy_epochs.py", ()),
    "by iterations": ("toy_iters.py", ()),
    "with accumulated gradients": (
        "toy_iters.py",
        ("optim_wrapper.accumulative_counts=2",),
    ),
    "with EMA": ("toy_ema.py", ()),
}
# Steps of training, synchronisations of files and renamings in an unbroken run.
MOST_EVENTS = 60


def draw(rng: random.Random, common: Path) -> Iterator[Case]:
    """Each job, killed one to four times, by the clock or between two events."""
    unbroken = cache(lambda job: _unbroken(job, common / job.replace(" ", "_")))
    while True:
        for job in rng.sample(list(JOBS), len(JOBS)):
            yield _case(job, rng.randrange(1, 5), rng.randrange(2**32), unbroken)


def _train(job: str, folder: Path) -> None:
    config, options = JOBS[job]
    options = ["--cfg-options", *options] if options else []
    run_main("train", TOY / config, "--resume", "--work-dir", folder / "run", *options)


def _unbroken(job: str, folder: Path) -> tuple[dict[str, str], float]:
    folder.mkdir()
    start = time.perf_counter()
    run(lambda: _train(job, folder)).require(0)
    return products(folder), time.perf_counter() - start


def _case(job: str, kills: int, seed: int, unbroken) -> Case:
    def attempt(folder: Path) -> str:
        rng = random.Random(seed)
        expected, seconds = unbroken(job)
        for _ in range(kills):
            if rng.random() < 0.5:
                end = _killed_after(rng.uniform(0, seconds), job, folder)
            else:
                end = _killed_at(rng.randrange(1, MOST_EVENTS), job, folder)
            if end.status != -signal.SIGKILL:
                end.require(0)  # it was quicker
        run(lambda: _train(job, folder)).require(0)
        if (found := products(folder)) != expected:
            raise Fault(f"{found} and not {expected} as without kills")
        return IDENTICAL

    times = "once" if kills == 1 else f"{kills} times"
    return Case(f"{job}, killed {times}", f"seed {seed}", attempt)


def _killed_after(seconds: float, job: str, folder: Path) -> End:
    child = Child(lambda: _train(job, folder))
    time.sleep(seconds)
    child.kill()
    return child.wait()


def _killed_at(number: int, job: str, folder: Path) -> End:
    """Before the step, or around the synchronisation or renaming, of that number."""

    def work() -> None:
        seen = 0

        def die_in_time(descriptor: int | None = None) -> None:
            nonlocal seen
            if (seen := seen + 1) == number:
                if descriptor is not None:  # half of a file is on the disk
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        step, synchronise, rename = BaseModel.train_step, os.fsync, os.replace

        def fsync(descriptor: int) -> None:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            die_in_time(descriptor if name.endswith(".partial") else None)
            synchronise(descriptor)

        def replace(source, target) -> None:
            die_in_time()
            rename(source, target)
            die_in_time()

        def train_step(*args, **kwargs):
            die_in_time()
            return step(*args, **kwargs)

        BaseModel.train_step, os.fsync, os.replace = train_step, fsync, replace
        _train(job, folder)

    return run(work)
