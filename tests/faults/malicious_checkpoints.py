"""Checkpoints that hold code, given to whatever reads checkpoints."""

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from checkpoint_readers import READERS
from in_process import TOY, run_main
from malicious import FORMS, PAYLOADS, PLACES, write

from .campaign import Case, Fault
from .child import run
from .outputs import refused


def draw(rng: random.Random, common: Path) -> Iterator[Case]:
    """Each payload, place, form and reader once before any comes again."""
    combinations = list(product(READERS, PAYLOADS, PLACES, FORMS))
    while True:
        rng.shuffle(combinations)
        for reader, payload, place, form in combinations:
            yield _case(reader, payload, place, form)


def _case(reader, payload: str, place: str, form: str) -> Case:
    def attempt(folder: Path) -> str:
        canary, path = folder / "canary", folder / "file.pth"
        content = PLACES[place](PAYLOADS[payload](f"touch {canary}"))
        write(path, content, form)
        end = run(lambda: reader(run_main, TOY, folder, str(path)))
        if canary.exists():
            raise Fault(f"code was executed: {end}")
        return refused(end, folder, "is not a checkpoint of weights")

    return Case(reader.__name__, f"{payload} in {place}, {form}", attempt)
