"""Train configs with several seeds and compare them.

``python tools/ablate.py CONFIG [CONFIG ...] --seeds 0 1 2 [--out FOLDER] [--jobs 1]``

Each run is ``tools/train.py`` in a process of its own and leaves
``FOLDER/<config>/seed_<seed>``. Started again, the grid skips what is finished and
continues what was interrupted. A config says by its field ``ablation`` where it stands
in the tables (:mod:`setformer_mm.utils.ablation`).
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from tqdm import tqdm

from setformer_mm.utils.ablation import (
    AblationRun,
    draw,
    markdown,
    place_in_ablation,
    read_runs,
    write_runs,
)
from setformer_mm.utils.child_processes import start_child
from setformer_mm.utils.complexity import count_model
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.folder_lock import hold_folder
from setformer_mm.utils.json_text import json_text
from setformer_mm.utils.launch import build_model, read_config, run_tool
from setformer_mm.utils.outputs import require_writable_folder
from setformer_mm.utils.preflight import require_data, require_pretrained_weights
from setformer_mm.utils.results import (
    FILE_NAMES,
    config_sha256,
    read_result,
)

TRAIN = Path(__file__).resolve().with_name("train.py")
LOG = "train.log"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Contender:
    """A config, and what the report says of it whatever the seed.

    Attributes:
        config: path of the file.
        sha256: see :func:`setformer_mm.utils.results.config_sha256`.
        rows: see :class:`~setformer_mm.utils.ablation.AblationRun`, as what follows.
        baseline_of: likewise.
        multiply_adds: likewise.
    """

    config: str
    sha256: str
    rows: dict[str, str]
    baseline_of: list[str]
    multiply_adds: int | None

    @property
    def name(self) -> str:
        return Path(self.config).stem


@dataclass(frozen=True, eq=False)
class Job:
    """One contender to train with one seed."""

    contender: Contender
    seed: int
    work_dir: Path

    def __str__(self) -> str:
        return f"{self.contender.name}, seed {self.seed}"

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
        return self._read_note()["seconds"] if self.is_known() else 0.0

    def add_seconds(self, seconds: float) -> None:
        content = dict(sha256=self.contender.sha256, seconds=self.seconds + seconds)
        write_atomically(self.note, json_text(content))

    def run(self) -> AblationRun | None:
        """What the report needs to know, if the job is finished."""
        path = self.work_dir / FILE_NAMES["train"]
        if not self.is_known() or not path.exists():
            return None
        result = read_result(path)
        about = self.contender
        if (result.config_sha256, result.seed) != (about.sha256, self.seed):
            return None
        return AblationRun(
            rows=about.rows,
            baseline_of=about.baseline_of,
            multiply_adds=about.multiply_adds,
            seconds=round(self.seconds, 1),
            result=result,
        )

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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train configs and compare them.")
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="config files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument(
        "--out", type=Path, default=Path("ablation_output"), help="where to write"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes at a time"
    )
    parser.add_argument(
        "--report-only",
        nargs="+",
        metavar="FILE.json",
        help="train nothing; table and picture of what earlier grids collected",
    )
    args = parser.parse_args()
    names = [Path(config).stem for config in args.configs]
    if bool(args.configs) == bool(args.report_only):
        parser.error("name configs to train, or files with --report-only")
    if len(set(names)) < len(names):
        parser.error(f"CONFIGs must have different file names, got {names}")
    if args.jobs < 1:
        parser.error(f"--jobs must be positive, got {args.jobs}")
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds must differ and not be negative, got {args.seeds}")
    return args


def read_contender(config: str) -> Contender:
    """Read a config, find what its training would miss, and build its model once.

    Raises:
        UserError: if the config, its data or its pretrained weights are not there, or
            its training would leave nothing to compare.
    """
    cfg = read_config(config)
    rows, baseline_of = place_in_ablation(cfg)
    require_result(cfg)
    require_data(cfg, ("train", "val"))
    require_pretrained_weights(cfg)
    sha256 = config_sha256(cfg)
    return Contender(config, sha256, rows, baseline_of, count_multiply_adds(cfg))


def require_result(cfg: Config) -> None:
    """Check that a training will validate and write down what it measured.

    Raises:
        UserError: if it will not.
    """
    if not cfg.get("val_dataloader"):
        raise UserError(f"an ablation compares validations, {cfg.filename} has none")
    hooks = [*cfg.get("default_hooks", {}).values(), *cfg.get("custom_hooks", [])]
    if not any("TrainResultHook" in str(hook["type"]) for hook in hooks if hook):
        raise UserError(
            f"{cfg.filename} needs default_hooks=dict(result=dict("
            "type='TrainResultHook')), which writes what an ablation compares"
        )


def count_multiply_adds(cfg: Config) -> int | None:
    """Multiply-adds of a model for the first validation image.

    None of a model without backbone, for which nobody has said what an image is.
    """
    if "backbone" not in cfg.model:
        return None
    model = build_model(cfg)
    init_default_scope(cfg.default_scope)
    sample = DATASETS.build(cfg.val_dataloader.dataset)[0]
    image = model.data_preprocessor(pseudo_collate([sample]), False)["inputs"]
    return count_model(model, image)


def plan(contenders: Sequence[Contender], seeds: Sequence[int], out: Path) -> list[Job]:
    """Lay out the grid: all contenders with the first seed, then with the next one.

    Raises:
        UserError: if a folder was written by something else.
    """
    jobs = [
        Job(contender, seed, out / contender.name / f"seed_{seed}")
        for seed in seeds
        for contender in contenders
    ]
    for job in jobs:
        if not job.is_known() and any(job.work_dir.glob("*")):
            raise UserError(
                f"{job.work_dir} has files that are not of an ablation; name another "
                "folder with --out"
            )
    return jobs


def start_training(job: Job, num_threads: int) -> subprocess.Popen:
    """Start or continue ``tools/train.py``; what it prints goes to the job's log."""
    command = [sys.executable, TRAIN, job.contender.config, "--work-dir", job.work_dir]
    command += ["--resume", "--cfg-options", f"randomness.seed={job.seed}"]
    environment = {"OMP_NUM_THREADS": str(num_threads), **os.environ}
    with open(job.log, "ab") as log:
        return start_child(command, stdout=log, stderr=log, env=environment)


def run_grid(
    jobs: Sequence[Job],
    start: Callable[[Job], subprocess.Popen],
    num_parallel: int,
    finished: Callable[[], None],
) -> list[Job]:
    """Run all jobs that are not finished, ``num_parallel`` at a time.

    Args:
        jobs: the grid.
        start: starts the process of a job.
        num_parallel: processes at a time.
        finished: called when a job has been finished.

    Returns:
        The jobs that failed.
    """
    done = [job for job in jobs if not job.is_outdated() and job.run()]
    waiting = [job for job in jobs if job not in done]
    if done:
        print(f"[{len(done)}/{len(jobs)}] finished before", flush=True)
    failed: list[Job] = []
    running: dict[Job, tuple[subprocess.Popen, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_parallel:
                job = waiting.pop(0)
                _prepare(job)
                running[job] = start(job), time.monotonic()
            ended = [job for job, (p, _) in running.items() if p.poll() is not None]
            for job in ended:
                process, since = running.pop(job)
                job.add_seconds(time.monotonic() - since)
                run = None if process.returncode else job.run()
                (done if run else failed).append(job)
                if run:
                    finished()
                elapsed = [time.monotonic() - since for _, since in running.values()]
                left = _seconds_left(done, len(waiting), elapsed) / num_parallel
                count = len(done) + len(failed)
                estimate = f", about {_duration(left)} left" if done else ""
                progress = f"[{count}/{len(jobs)}{estimate}]"
                print(f"{progress} {job}: {_outcome(job, run)}", flush=True)
            if not ended:
                time.sleep(POLL_SECONDS)
    finally:  # Ctrl-C
        for process, _ in running.values():
            process.terminate()
        for job, (process, since) in running.items():
            process.wait()
            job.add_seconds(time.monotonic() - since)
    return failed


def _prepare(job: Job) -> None:
    """Make the job's folder ready, and say so unless the job is new."""
    if job.is_outdated():
        kept = job.keep_outdated()
        print(
            f"{job}: its config has changed since; trained anew, the old run is in "
            f"{kept}",
            flush=True,
        )
    elif job.is_known():
        print(f"{job}: goes on where it stopped", flush=True)
    job.add_seconds(0)


def _seconds_left(done: list[Job], waiting: int, elapsed: list[float]) -> float:
    """Seconds of work left if each job takes as long as those that are done."""
    if not done:
        return 0.0
    mean = sum(job.seconds for job in done) / len(done)
    return waiting * mean + sum(max(mean - seconds, 0) for seconds in elapsed)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _outcome(job: Job, run: AblationRun | None) -> str:
    if run:
        return f"{run.score:.4g}"
    exists = job.log.exists()
    lines = job.log.read_text("utf-8", "replace").split("\n") if exists else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"failed; see {job.log}: {last}"


def collect(jobs: Sequence[Job], path: Path) -> list[AblationRun]:
    """Write the runs of all jobs that are finished."""
    runs = [run for job in jobs if (run := job.run())]
    write_runs(path, runs)
    return runs


def report(runs: list[AblationRun], out: Path) -> None:
    """Print and write the tables, draw the picture."""
    tables = markdown(runs)
    write_atomically(out / "ablation.md", tables)
    draw(runs, out / "ablation.png")
    print(f"\n{tables}\nTable and picture are in {out}")


def train_and_report(jobs: Sequence[Job], out: Path, num_parallel: int) -> None:
    """Run the grid, collect and show what has been finished.

    Raises:
        UserError: if a run failed, or the grid was stopped.
    """
    print(f"{len(jobs)} runs; each logs to {out}/CONFIG/seed_SEED/{LOG}", flush=True)
    path = out / "ablation.json"
    threads = max(1, torch.get_num_threads() // num_parallel)
    try:
        failed = run_grid(
            jobs,
            lambda job: start_training(job, threads),
            num_parallel,
            lambda: collect(jobs, path),
        )
    except KeyboardInterrupt:
        raise UserError("stopped; the same command goes on from here") from None
    if runs := collect(jobs, path):
        report(runs, out)
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed; see above")


def main() -> None:
    args = parse_args()
    require_writable_folder(args.out, "--out")
    if args.report_only:
        runs = read_runs(args.report_only)
        if not runs:
            raise UserError(f"{', '.join(args.report_only)} hold no finished run")
        report(runs, args.out)
        return
    progress = tqdm(args.configs, "reading configs", leave=False, disable=None)
    jobs = plan([read_contender(config) for config in progress], args.seeds, args.out)
    hold_folder(args.out, "name another folder with --out")
    train_and_report(jobs, args.out, args.jobs)


def stop(*_) -> None:
    """Handle a signal as Ctrl-C; another one would interrupt the cleaning up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    run_tool(main)
