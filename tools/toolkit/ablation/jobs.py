"""The runs of an ablation as folders: what is finished, outdated, or still to do."""

import dataclasses
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.json_text import json_text
from setformer_mm.utils.results import FILE_NAMES, Result, read_result

from .curves import read_records, training_time, validation_curve
from .places import Place, require_own_rows
from .runs import AblationRun, best_rate, group_runs

LOG = "train.log"


@dataclass(frozen=True)
class Contender:
    """A config, and what the report says of it whatever the seed.

    Attributes:
        config: path of the file.
        sha256: see :func:`setformer_mm.utils.results.config_sha256`.
        rows: see :class:`~toolkit.ablation.places.Place`.
        baseline_of: likewise.
        multiply_adds: see :class:`~toolkit.ablation.runs.AblationRun`.
        seeds: to train it with.
        batch_size: of the training.
        learning_rate: that replaces the config's own; None leaves that.
    """

    config: str
    sha256: str
    rows: dict[str, str]
    baseline_of: list[str]
    multiply_adds: int | None
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 1
    learning_rate: float | None = None

    @property
    def place(self) -> Place:
        return Place(self.rows, self.baseline_of)

    @property
    def name(self) -> str:
        return Path(self.config).stem

    @property
    def folder(self) -> Path:
        """Where its runs belong, below the grid's folder."""
        if self.learning_rate is None:
            return Path(self.name)
        return Path(self.name, f"lr_{self.learning_rate:g}")


@dataclass(frozen=True, eq=False)
class Job:
    """One contender to train with one seed.

    Attributes:
        contender: what to train.
        seed: of the training.
        work_dir: of the training.
        collected: its run, if an earlier grid has finished it elsewhere.
    """

    contender: Contender
    seed: int
    work_dir: Path
    collected: AblationRun | None = None

    def __str__(self) -> str:
        rate = self.contender.learning_rate
        with_rate = "" if rate is None else f", lr {rate:g}"
        return f"{self.contender.name}{with_rate}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the processes print."""
        return self.work_dir / LOG

    @property
    def note(self) -> Path:
        """What this tool knows about the job: the config's hash and the seconds."""
        return self.work_dir / "ablation_job.json"

    def is_known(self) -> bool:
        """Whether it has been started, with its config as it is now or another one."""
        return self.note.exists()

    def is_outdated(self) -> bool:
        """Whether it was started with a config that has changed since."""
        return self.is_known() and self._read_note()["sha256"] != self.contender.sha256

    def keep_outdated(self) -> Path:
        """Move the run of another config out of the way, to a folder with its hash.

        What an earlier run of that config has left there is deleted.

        Raises:
            UserError: if the folder is of something else.
        """
        sha256 = self._read_note()["sha256"]
        kept = self.work_dir.with_name(f"{self.work_dir.name}.{sha256[:8]}")
        earlier = dataclasses.replace(self, work_dir=kept)
        if kept.exists():
            if not earlier.is_known() or earlier._read_note()["sha256"] != sha256:
                raise UserError(f"{kept} is not of this ablation; move it elsewhere")
            shutil.rmtree(kept)
        return self.work_dir.rename(kept)

    @property
    def seconds(self) -> float:
        """How long it has run, all its processes together."""
        if self.collected:
            return self.collected.seconds
        return self._read_note()["seconds"] if self.is_known() else 0.0

    def add_seconds(self, seconds: float) -> None:
        content = dict(sha256=self.contender.sha256, seconds=self.seconds + seconds)
        write_atomically(self.note, json_text(content))

    def run(self) -> AblationRun | None:
        """What the report needs to know, if the job is finished and found something."""
        if self.collected:
            about, run = self.contender, self.collected
            return dataclasses.replace(  # its path and place may be others now
                run,
                rows=about.rows,
                baseline_of=about.baseline_of,
                result=dataclasses.replace(run.result, config=about.config),
            )
        result = self._finished_result()
        if result is None or not result.metrics:
            return None
        about = self.contender
        run = AblationRun(
            rows=about.rows,
            baseline_of=about.baseline_of,
            multiply_adds=about.multiply_adds,
            seconds=round(self.seconds, 1),
            result=result,
            learning_rate=about.learning_rate,
        )
        return with_curve(run, self.work_dir, about.batch_size)

    def _finished_result(self) -> Result | None:
        """What it measured, if it was trained to the end with its config as it is."""
        path = self.work_dir / FILE_NAMES["train"]
        if not self.is_known() or not path.exists():
            return None
        result = read_result(path)
        wanted = self.contender.sha256, self.seed
        return result if (result.config_sha256, result.seed) == wanted else None

    def found_nothing(self) -> bool:
        """Whether it is finished without a metric, as a detector that finds nothing."""
        result = self._finished_result()
        return result is not None and not result.metrics

    def _read_note(self) -> dict:
        try:
            note = json.loads(self.note.read_text("utf-8"))
            if isinstance(note["sha256"], str) and note["seconds"] >= 0:
                return note
        except (LookupError, TypeError, ValueError):
            pass
        raise UserError(
            f"{self.note} is damaged; delete {self.work_dir} to train this run anew"
        )


def with_curve(run: AblationRun, work_dir: Path, batch_size: int) -> AblationRun:
    """Add what the training logged; nothing if it kept no log."""
    try:
        records = read_records(work_dir)
    except UserError:
        return run
    run = dataclasses.replace(run, curve=validation_curve(records, run.metric))
    if time := training_time(records):
        seconds, iterations = time
        run = dataclasses.replace(
            run,
            training_seconds=round(seconds * iterations, 1),
            images_per_second=round(batch_size / seconds, 2),
        )
    return run


def plan(
    contenders: Sequence[Contender], out: Path, collected: Iterable[AblationRun] = ()
) -> list[Job]:
    """Lay out the grid: all contenders with their first seed, then with the next one.

    Args:
        contenders: what to train.
        out: folder of the grid.
        collected: runs of earlier grids; those of the same configs and seeds count as
            finished.

    Raises:
        UserError: if a folder was written by something else, or two configs stand in
            one row.
    """
    require_own_rows((contender.config, contender.place) for contender in contenders)
    runs = {(run.result.config_sha256, run.result.seed): run for run in collected}
    rounds = zip_longest(*(contender.seeds for contender in contenders))
    jobs = [
        Job(
            contender,
            seed,
            out / contender.folder / f"seed_{seed}",
            runs.get((contender.sha256, seed)),
        )
        for seeds in rounds
        for contender, seed in zip(contenders, seeds)
        if seed is not None
    ]
    for job in jobs:
        if not job.is_known() and any(job.work_dir.glob("*")):
            raise UserError(
                f"{job.work_dir} has files that are not of an ablation; name another "
                "folder with --out"
            )
    return jobs


def runs_of_others(
    jobs: Sequence[Job], collected: Iterable[AblationRun]
) -> list[AblationRun]:
    """Runs of earlier grids that stand beside those of the jobs in the tables.

    Left out are runs of the jobs' own configs, with other seeds too, as they are and as
    they were, and wherever their files were. A run of the same hash in another row is
    another config's.

    Raises:
        UserError: if the others cannot stand in tables together, or beside the jobs.
    """
    paths = {job.contender.config for job in jobs}
    rows = {
        (job.contender.sha256, row)
        for job in jobs
        for row in job.contender.rows.items()
    }
    others = [
        run
        for run in collected
        if run.result.config not in paths
        and not any((run.result.config_sha256, row) in rows for row in run.rows.items())
    ]
    # Errors that would otherwise come after the training.
    group_runs(others)
    places = [(run.result.config, run.place) for run in others]
    places += [(job.contender.config, job.contender.place) for job in jobs]
    require_own_rows(places)
    return others


def first_runs(jobs: Sequence[Job]) -> list[Job]:
    """The runs by which learning rates are chosen: each rate with the first seed."""
    return [
        job
        for job in jobs
        if job.contender.learning_rate is not None
        and job.seed == job.contender.seeds[0]
    ]


def without_worse_rates(jobs: Sequence[Job]) -> list[Job]:
    """Leave out what goes on with a learning rate that another one was better than.

    Raises:
        UserError: if a run by which to choose is not finished.
    """
    scores: dict[str, dict[float, float]] = {}
    first = first_runs(jobs)
    for job in first:
        run = job.run()
        if run is None and not job.found_nothing():
            raise UserError(f"{job} failed, so that no learning rate can be chosen")
        rates = scores.setdefault(job.contender.config, {})
        rates[job.contender.learning_rate] = run.score if run else math.nan
    best = {config: best_rate(rates) for config, rates in scores.items()}
    return [
        job
        for job in jobs
        if (job in first and not job.found_nothing())
        or job.contender.learning_rate == best.get(job.contender.config)
    ]
