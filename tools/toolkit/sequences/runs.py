"""Runs of the comparison on sequences: one file each, so that a campaign goes on."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.json_text import json_text


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes:
        task: see :data:`.tasks.TASKS`.
        mixer: see :data:`.grid.MIXERS`.
        seed: of weights and order.
        accuracy: on the test, in %.
        train_accuracy: on as many texts of the training, in %.
        majority: what the most frequent class alone would reach on the test, in %.
        curve: ``(epoch, accuracy)`` during the training.
        parameters: of the model.
        seconds: of the training, which say what else ran beside it.
        settings: what makes the result: sizes, recipe, hash of the texts.
        sources: versions that the texts depend on.
        environment: machine and versions.
    """

    task: str
    mixer: str
    seed: int
    accuracy: float
    train_accuracy: float
    majority: float
    curve: list
    parameters: int
    seconds: float
    settings: dict
    sources: dict
    environment: dict


def path_of(folder: Path, task: str, mixer: str, seed: int) -> Path:
    """Where a run lies."""
    return folder / f"{task}_{mixer}_{seed}.json"


def write_run(folder: Path, run: Run) -> None:
    """Write a run, atomically."""
    path = path_of(folder, run.task, run.mixer, run.seed)
    write_atomically(path, json_text(dataclasses.asdict(run), indent=1))


def read_run(path: Path) -> Run:
    """Read a run.

    Raises:
        UserError: if the file does not hold one.
    """
    try:
        return Run(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold a run on sequences") from error


def read_runs(folder: Path) -> list[Run]:
    """Read all runs of a folder.

    Raises:
        UserError: if there is none, or runs of one task differ in more than the mixer.
    """
    runs = [read_run(path) for path in sorted(folder.glob("*_*_*.json"))]
    if not runs:
        raise UserError(f"there are no runs on sequences in {folder}")
    of_task = {}
    for run in runs:
        if of_task.setdefault(run.task, run).settings != run.settings:
            raise UserError(
                f"runs of {run.task} in {folder} have different settings; remove those "
                "of one of them"
            )
    return runs
