"""Several processes that write one file, or train in one folder, at the same time."""

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from in_process import TOY, run_main

from setformer_mm.utils.checkpoints import read_checkpoint
from setformer_mm.utils.files import (
    remove_partial_files,
    save_checkpoint,
    write_atomically,
)

from .campaign import IDENTICAL, Case, Fault
from .child import Child, run
from .outputs import products

ROUNDS = 20  # how often a writer writes
SIZE = 1 << 16


def draw(rng: random.Random, common: Path) -> Iterator[Case]:
    """Texts, checkpoints and trainings, by two to five processes."""
    alone = cache(lambda: _trained_alone(common))
    while True:
        for kind in rng.sample(list(WRITERS), len(WRITERS)):
            yield _one_file(kind, rng.randrange(2, 6), rng.randrange(2**32))
        yield _one_folder(rng.randrange(2, 6), rng.randrange(2**32), alone)


def _write_text(path: Path, writer: int) -> None:
    write_atomically(path, chr(ord("a") + writer) * (SIZE + writer))


def _read_text(path: Path) -> int:
    text = path.read_text()
    writer = ord(text[0]) - ord("a")
    if text != text[0] * (SIZE + writer):
        raise Fault(f"{path} is torn: {text[0]} ... {text[-1]}, {len(text)} characters")
    return writer


def _write_checkpoint(path: Path, writer: int) -> None:
    save_checkpoint(dict(state_dict=dict(w=torch.full((SIZE // 4,), writer))), path)


def _read_checkpoint(path: Path) -> int:
    weight = read_checkpoint(path)["state_dict"]["w"]  # which checks its sums
    if weight.unique().numel() != 1:
        raise Fault(f"{path} is torn")
    return int(weight[0])


WRITERS = {
    "texts": (_write_text, _read_text),
    "checkpoints": (_write_checkpoint, _read_checkpoint),
}


def _one_file(kind: str, number: int, seed: int) -> Case:
    write, read = WRITERS[kind]

    def attempt(folder: Path) -> str:
        path, rng = folder / "out", random.Random(seed)

        def work(writer: int) -> None:
            for _ in range(ROUNDS):
                write(path, writer)
                remove_partial_files(folder)  # those of killed writers alone

        children = [Child(lambda w=writer: work(w)) for writer in range(number)]
        killed = rng.randrange(number + 1)  # one of them, or none
        doom = time.perf_counter() + rng.uniform(0, 0.1)
        while any(child.process.is_alive() for child in children):
            if killed < number and time.perf_counter() > doom:
                children[killed].kill()
            if path.exists():
                read(path)
        ends = [child.wait() for child in children]
        for writer, end in enumerate(ends):
            if writer != killed or end.status != -signal.SIGKILL:
                end.require(0)
        remove_partial_files(folder)
        if not 0 <= read(path) < number or os.listdir(folder) != [path.name]:
            raise Fault(f"{os.listdir(folder)} instead of the file alone")
        return IDENTICAL

    return Case(f"one file, {kind}", f"{number} processes, seed {seed}", attempt)


def _train(folder: Path) -> None:
    run_main("train", TOY / "toy_epochs.py", "--resume", "--work-dir", folder / "run")


def _trained_alone(common: Path) -> dict[str, str]:
    run(lambda: _train(common)).require(0)
    return products(common)


def _one_folder(number: int, seed: int, alone) -> Case:
    def attempt(folder: Path) -> str:
        rng, expected, children = random.Random(seed), alone(), []
        for _ in range(number):
            children.append(Child(lambda: _train(folder)))
            time.sleep(rng.uniform(0, 0.05))
        finished = 0
        for end in [child.wait() for child in children]:
            if end.status == 0:
                end.require(0)
                finished += 1
            elif "is in use by process" not in end.sentence:
                raise Fault(f"refused for another reason: {end.sentence}")
        if not finished or products(folder) != expected:
            raise Fault(f"{finished} finished; {products(folder)}, not {expected}")
        return IDENTICAL

    return Case("one work directory", f"{number} trainings, seed {seed}", attempt)
