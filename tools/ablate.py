"""Train configs with several seeds and compare them.

``python tools/ablate.py CONFIG [CONFIG ...] --seeds 0 1 2 [--out FOLDER] [--jobs 1]``

Each run is ``tools/train.py`` in a process of its own and leaves
``FOLDER/<config>/seed_<seed>``. Started again, the grid skips what is finished and
continues what was interrupted. A config says by its field ``ablation`` where it stands
in the tables, and perhaps how many seeds it wants and which learning rates
(:mod:`toolkit.ablation.places`): these are tried with the first seed, in
``FOLDER/<config>/lr_<rate>/seed_<seed>``, and the best one goes on with the others.
``--collected FILE.json`` continues a grid of another machine, whose ``ablation.json``
that file is: what it holds of these configs counts as finished, and what it holds of
others is kept beside them.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.flags import positive_integer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train configs and compare them.")
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="config files")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="instead of those that the configs wish for, or 0",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("ablation_output"), help="where to write"
    )
    parser.add_argument(
        "--jobs",
        type=positive_integer,
        default=1,
        metavar="N",
        help="processes at a time",
    )
    parser.add_argument(
        "--collected",
        nargs="+",
        metavar="FILE.json",
        default=[],
        help="what earlier grids collected: these runs count as finished, and those "
        "of other configs stay beside them",
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
    seeds = args.seeds or [0]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        parser.error(f"--seeds must differ and not be negative, got {args.seeds}")
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from tqdm import tqdm

from setformer_mm.utils.complexity import count_model
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.results import config_sha256
from toolkit.ablation.grid import run_grid
from toolkit.ablation.jobs import (
    LOG,
    Contender,
    Job,
    first_runs,
    plan,
    runs_of_others,
    without_worse_rates,
)
from toolkit.ablation.pictures import draw, draw_progress
from toolkit.ablation.places import place_in_ablation, wish_of
from toolkit.ablation.runs import AblationRun, read_runs, write_runs
from toolkit.ablation.tables import markdown
from toolkit.child_processes import start_child
from toolkit.config_checks import require_parts
from toolkit.folder_lock import hold_folder
from toolkit.launch import build_model, read_config, run_tool
from toolkit.outputs import require_writable_folder
from toolkit.preflight import require_data, require_pretrained_weights

TRAIN = Path(__file__).resolve().with_name("train.py")
LEARNING_RATE = "optim_wrapper.optimizer.lr"  # its place in a config


def read_contenders(config: str, seeds: Sequence[int] | None) -> list[Contender]:
    """Read a config, find what its training would miss, and build its model once.

    Args:
        config: path of the file.
        seeds: instead of those that it wishes for.

    Returns:
        One contender for each learning rate to try.

    Raises:
        UserError: if the config, its data or its pretrained weights are not there, or
            its training would leave nothing to compare.
    """
    cfg = read_config(config)
    require_parts(cfg, ("model", "train_dataloader"))
    rows, baseline_of = place_in_ablation(cfg)
    require_result(cfg)
    require_data(cfg, ("train", "val"))
    require_pretrained_weights(cfg)
    wish = wish_of(cfg)
    # First, because building a model or a data set changes the config.
    hashes = {}
    for rate in wish.learning_rates or (None,):
        cfg.merge_from_dict({} if rate is None else {LEARNING_RATE: rate})
        hashes[rate] = config_sha256(cfg)
    multiply_adds = count_multiply_adds(cfg)
    return [
        Contender(
            config,
            sha256,
            rows,
            baseline_of,
            multiply_adds,
            tuple(seeds or wish.seeds),
            cfg.train_dataloader.get("batch_size", 1),
            rate,
        )
        for rate, sha256 in hashes.items()
    ]


def require_result(cfg: Config) -> None:
    """Check that a training will validate and write down what it measured.

    Raises:
        UserError: if it will not.
    """
    if not cfg.get("val_dataloader"):
        raise UserError(f"an ablation compares validations, {cfg.filename} has none")
    hooks = [*(cfg.get("default_hooks") or {}).values()]
    hooks += cfg.get("custom_hooks") or []
    types = (str(hook["type"]) for hook in hooks if isinstance(hook, dict))
    if not any("TrainResultHook" in name for name in types):
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


def start_training(job: Job, num_threads: int) -> subprocess.Popen:
    """Start or continue ``tools/train.py``; what it prints goes to the job's log."""
    command = [sys.executable, TRAIN, job.contender.config, "--work-dir", job.work_dir]
    command += ["--resume", "--cfg-options", f"randomness.seed={job.seed}"]
    if job.contender.learning_rate is not None:
        command.append(f"{LEARNING_RATE}={job.contender.learning_rate}")
    environment = {"OMP_NUM_THREADS": str(num_threads), **os.environ}
    with open(job.log, "ab") as log:
        return start_child(command, stdout=log, stderr=log, env=environment)


def collect(
    jobs: Sequence[Job], path: Path, others: Sequence[AblationRun] = ()
) -> list[AblationRun]:
    """Write the runs of all jobs that are finished, and those of others."""
    runs = [*others, *(run for job in jobs if (run := job.run()))]
    write_runs(path, runs)
    return runs


def report(runs: list[AblationRun], out: Path) -> None:
    """Print and write the tables, draw the picture."""
    tables = markdown(runs)
    write_atomically(out / "ablation.md", tables)
    draw(runs, out / "ablation.png")
    if not draw_progress(runs, out / "progress.png"):
        (out / "progress.png").unlink(missing_ok=True)  # of other runs
    print(f"\n{tables}\nTables and pictures are in {out}")


def train_and_report(
    jobs: Sequence[Job],
    out: Path,
    num_parallel: int,
    others: Sequence[AblationRun] = (),
) -> None:
    """Run the grid, collect and show what has been finished, beside runs of others.

    Raises:
        UserError: if a run failed, or the grid was stopped.
    """
    first = first_runs(jobs)
    # Each config with each seed, and the first one again with the other rates.
    count = len({(job.contender.config, job.seed) for job in jobs})
    count += len(first) - len({job.contender.config for job in first})
    print(f"{count} runs; each logs to {out}/CONFIG/seed_SEED/{LOG}", flush=True)
    path = out / "ablation.json"
    threads = max(1, torch.get_num_threads() // num_parallel)

    def run(some: Sequence[Job]) -> list[Job]:
        return run_grid(
            some,
            lambda job: start_training(job, threads),
            num_parallel,
            lambda: collect(jobs, path, others),
        )

    try:
        failed = []
        if first:
            print("First the learning rates, with one seed", flush=True)
            failed = [job for job in run(first) if not job.found_nothing()]
        if not failed:
            jobs = without_worse_rates(jobs)
            failed = run(jobs)
    except KeyboardInterrupt:
        raise UserError("stopped; the same command goes on from here") from None
    if runs := collect(jobs, path, others):
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
    contenders = [c for config in progress for c in read_contenders(config, args.seeds)]
    collected = read_runs(args.collected)
    jobs = plan(contenders, args.out, collected)
    hold_folder(args.out, "name another folder with --out")
    train_and_report(jobs, args.out, args.jobs, runs_of_others(jobs, collected))


def stop(*_) -> None:
    """Handle a signal as Ctrl-C; another one would interrupt the cleaning up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    run_tool(main)
