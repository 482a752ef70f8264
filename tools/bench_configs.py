"""Images a second and memory of the models of configs, side by side.

``python tools/bench_configs.py CONFIG [CONFIG ...]`` measures backbone and neck of the
configs of each group (their field ``ablation``) in turns, with random weights, on a
validation batch: inference, and a training step without the optimiser. Nothing is
measured unless features and gradients of every model first agree with those in float64,
where SeT attention runs as its reference.
"""

import argparse
import sys
from pathlib import Path

from toolkit.flags import add_benchmark_arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files")
    add_benchmark_arguments(parser)
    parser.add_argument(
        "--document", type=Path, help="a document with a section for the tables"
    )
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 3 if args.quick else 15
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch

from toolkit.benchmarks.configs import (
    TASKS,
    Entry,
    baseline_of,
    count_parameters,
    entry_of,
    group_entries,
    largest_error,
    prepare,
    render,
)
from toolkit.benchmarks.measuring import TURN_SECONDS, peak_memory
from toolkit.benchmarks.reporting import Progress, publish, start
from toolkit.launch import run_tool
from toolkit.timing import environment, interleave

TOLERANCE = 1e-3  # of an error, as a share of the largest entry


def measure(
    args: argparse.Namespace, group: str, rows: dict[str, Entry], progress: Progress
) -> dict:
    """Measure the models of one group, which are given by name.

    Returns:
        dict: ``times`` (seconds a batch, one number a round) and ``peaks`` (bytes) by
        task and name, and what they are of.
    """
    first = next(iter(rows.values()))
    times, peaks = {}, {}
    for training, task in TASKS.items():
        progress.now(f"{group}: {task}")
        calls = {n: prepare(entry, training, args.device) for n, entry in rows.items()}
        for call in calls.values():
            call()
        times[task] = interleave(calls, args.device, args.rounds, TURN_SECONDS)
        del calls
        peaks[task] = {}
        if not args.no_memory:
            peaks[task] = {
                name: peak_memory(
                    prepare,
                    entry,
                    training,
                    args.device,
                    device=args.device,
                    threads=torch.get_num_threads(),
                    repeats=1,
                )
                for name, entry in rows.items()
            }
        progress.add(1)
    return dict(
        name=group,
        size=first.size,
        batch=first.batch,
        baseline=baseline_of(group, rows) or next(iter(rows)),
        configs={entry.config: entry.sha256 for entry in rows.values()},
        parameters={name: count_parameters(entry) for name, entry in rows.items()},
        times=times,
        peaks=peaks,
    )


def main() -> None:
    """Check, then measure, then report."""
    args = parse_args()
    start(args, "backbones", args.configs)
    entries = [entry_of(config) for config in dict.fromkeys(args.configs)]
    groups = group_entries(entries)
    for entry in entries:
        error = largest_error(entry, args.device)
        if not error < TOLERANCE:
            sys.exit(
                f"error: the model of {entry.config} is wrong: it differs from float64 "
                f"by {error:.3g} of the largest entry; nothing was measured"
            )
    progress = Progress(len(TASKS) * len(groups))
    result = dict(
        environment=environment(args.device) | dict(dtype="float32"),
        groups=[measure(args, group, rows, progress) for group, rows in groups.items()],
    )
    publish(args, result, render, section="backbones")


if __name__ == "__main__":
    run_tool(main)
