"""Time and memory of SeT attention beside other ways to compute it and other attention.

``python tools/bench_op.py`` measures one image of two heads with 49 to 262,144
tokens and the four stages of SeTformer-T at batch 8, the forward pass and both passes.
Nothing is measured unless every contender first agrees with its formula in float64.
"""

import argparse
import math
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

import torch

from setformer_mm.ops import available_backends
from setformer_mm.utils.markdown import markdown_table, three_digits
from toolkit.benchmarks.contenders import (
    COMPILED,
    CONTENDERS,
    DIRECTIONS,
    EAGER,
    FORWARD,
    POT,
    REFERENCE,
    SDPA,
    Problem,
    check,
    prepare,
)
from toolkit.benchmarks.measuring import backends_on, peak_memory
from toolkit.benchmarks.reporting import (
    Progress,
    add_common_arguments,
    describe,
    publish,
    start,
    versus,
)
from toolkit.timing import environment, interleave

if TYPE_CHECKING:  # only pictures need it
    from matplotlib.figure import Figure

SWEEP = (49, 196, 784, 3136, 16384, 65536, 262144)
QUICK_SWEEP = SWEEP[:4]
# Side of the grid, heads, side of the grid of references.
STAGES = ((56, 2, 4), (28, 4, 4), (14, 8, 4), (7, 16, 4))
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)
# A turn of a contender: it repeats calls that are shorter, which the clock and the
# scheduler would blur.
TURN_SECONDS = 0.02
# Work that every task brings, whatever its size; see work().
OVERHEAD = 50_000
OURS_STYLE = dict(color="black", linewidth=2.5)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of tokens")
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="*",
        metavar="N",
        help="numbers of tokens of the single image, squares",
    )
    parser.add_argument("--batch", type=int, default=8, help="images of the stages")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, metavar="NAME", help="only these"
    )
    parser.add_argument(
        "--compile",
        choices=["no", "stages", "all"],
        help="where to measure the compiled reference (default: stages): compiling "
        "takes from ten seconds to a minute for each problem and direction",
    )
    parser.add_argument(
        "--longest-call",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="leave a contender out where one call would take longer",
    )
    args = parser.parse_args()
    if args.tokens is None:
        args.tokens = QUICK_SWEEP if args.quick else SWEEP
    for tokens in args.tokens:
        if tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
            parser.error(f"--tokens must be squares, got {tokens}")
    if args.compile is None:
        args.compile = "no" if args.quick else "stages"
    if args.rounds is None:
        args.rounds = 3 if args.quick else 7
    return args


def single_image(tokens: int) -> Problem:
    """The problem whose number of tokens varies."""
    return Problem(1, math.isqrt(tokens), 2, 4)


def tasks_of(args: argparse.Namespace) -> list[tuple[Problem, str]]:
    """Problems and directions in the order of measuring, sizes rising."""
    problems = [single_image(tokens) for tokens in sorted(args.tokens)]
    if args.batch:
        problems += [Problem(args.batch, *stage) for stage in STAGES]
    return list(product(dict.fromkeys(problems), DIRECTIONS))


def contenders_of(args: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """The contenders that can be measured, ours first, and why others cannot."""
    backends, missing = backends_on(args.device)
    names = []
    for name, contender in CONTENDERS.items():
        if args.contenders and name not in args.contenders:
            missing.pop(name, None)
        elif name == COMPILED and args.compile == "no":
            missing[name] = "--compile no, which --quick implies"
        elif contender.missing:
            missing[name] = contender.missing
        elif name in backends or name not in available_backends():
            names.append(name)
    return names, missing


def fitting(args: argparse.Namespace, names: list[str], problem: Problem) -> list[str]:
    """Those of the contenders that a problem is meant for."""
    single = problem == single_image(problem.tokens)
    return [
        name
        for name in names
        if not (name == COMPILED and args.compile == "stages" and single)
    ]


def work(problem: Problem, direction: str, growth: int = 1) -> float:
    """What time is about proportional to."""
    passes = 1 if direction == FORWARD else 3
    return passes * problem.batch * problem.heads * problem.tokens**growth


def gate(
    args: argparse.Namespace,
    names: list[str],
    tasks: list[tuple[Problem, str]],
    progress: Progress,
) -> dict[str, float]:
    """Check every contender on every problem, and end the script if one is wrong.

    Returns:
        dict: The largest error of each contender as a share of what is tolerated.
    """
    worst = dict.fromkeys(names, 0.0)
    for problem, direction in tasks:
        progress.now(f"checking {problem}, {direction}")
        able = fitting(args, names, problem)
        dtype = DTYPES[args.dtype]
        for name, error in check(able, problem, direction, args.device, dtype):
            if error > 1:
                sys.exit(
                    f"error: {name} is wrong for {problem}, {direction}: its error is "
                    f"{error:.3g} times what is tolerated; nothing was measured"
                )
            worst[name] = max(error, worst[name])
        progress.add(OVERHEAD + work(problem, direction))
    return worst


def measure(
    args: argparse.Namespace,
    names: list[str],
    tasks: list[tuple[Problem, str]],
    progress: Progress,
) -> list[dict]:
    """Measure every contender on every problem, except where it takes too long.

    Returns:
        list[dict]: One record a problem and direction, with ``times`` (seconds a call,
        one number a round), ``peaks`` (bytes) and ``skipped`` (reasons) by contender.
    """
    records: list[dict] = []
    for problem, direction in tasks:
        progress.now(f"measuring {problem}, {direction}")
        settings = problem, direction, args.device, DTYPES[args.dtype]
        calls, skipped = {}, {}
        for name in fitting(args, names, problem):
            seconds = predict(name, problem, direction, records)
            if seconds > args.longest_call:
                skipped[name] = f"a call would take about {seconds:.0f} s"
            else:
                calls[name] = prepare(name, *settings)
                calls[name]()
        times = interleave(calls, args.device, args.rounds, TURN_SECONDS)
        del calls
        peaks = {}
        if not args.no_memory:
            for name in times:
                peaks[name] = peak_memory(
                    prepare,
                    name,
                    *settings,
                    device=args.device,
                    threads=torch.get_num_threads(),
                    repeats=1 if args.quick or name == COMPILED else 3,
                    second_call=name == COMPILED,
                )
        records.append(
            dict(
                problem=asdict(problem),
                direction=direction,
                times=times,
                peaks=peaks,
                skipped=skipped,
            )
        )
        progress.add(OVERHEAD + work(problem, direction))
    return records


def predict(name: str, problem: Problem, direction: str, records: list[dict]) -> float:
    """Seconds of a call, from the largest of the smaller problems measured before."""
    growth = CONTENDERS[name].family.growth
    amount = work(problem, direction, growth)
    known = {}
    for record in records:
        measured = work(Problem(**record["problem"]), direction, growth)
        if record["direction"] == direction and measured <= amount:
            if name in record["times"]:
                known[measured] = min(record["times"][name])
    return amount / max(known) * known[max(known)] if known else 0


def render(result: dict) -> str:
    """All tables as Markdown."""
    parts = [describe(result["environment"])]
    ours = result["contenders"][0]
    shown = [d for d in DIRECTIONS if ours in columns(result, d)]
    for direction in shown:
        parts += [
            f"Time, {direction}: {ours} in milliseconds, and how many times as long "
            "others take (ratios of medians; in brackets, of opposite quartiles):",
            time_table(result, direction),
        ]
    for direction in shown:
        if any(record["peaks"] for record in result["records"]):
            parts += [
                f"Peak memory beyond inputs and results, {direction}, in MiB:",
                memory_table(result, direction),
            ]
    notes = [f"not available: {name}: {why}" for name, why in result["missing"].items()]
    for record in result["records"]:
        for name, why in record["skipped"].items():
            problem = Problem(**record["problem"])
            notes.append(f"skipped: {name}, {problem}, {record['direction']}: {why}")
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts.append(headline(result))
    return "\n\n".join(parts)


def time_table(result: dict, direction: str) -> str:
    """A row a problem, a column a contender."""
    ours, *others = columns(result, direction)
    rows = []
    for record in of_direction(result, direction):
        times = record["times"]
        row = [str(Problem(**record["problem"]))]
        row.append(three_digits(1000 * median(times[ours])) if ours in times else "")
        for name in others:
            if name in times and ours in times:
                row.append(versus(times, name, ours))
            else:
                row.append("")
        rows.append(row)
    return markdown_table(("", f"{ours} (ms)", *others), rows)


def memory_table(result: dict, direction: str) -> str:
    """A row a problem, a column a contender."""
    names = columns(result, direction)
    rows = []
    for record in of_direction(result, direction):
        peaks = record["peaks"]
        cells = (
            f"{peaks[n] / 2**20:.1f}" if peaks.get(n) is not None else "" for n in names
        )
        rows.append([str(Problem(**record["problem"])), *cells])
    return markdown_table(("", *names), rows)


def headline(result: dict) -> str:
    """The ratios that the stages of SeTformer-T and the growth with N come to."""
    ours = result["contenders"][0]
    times_of, peaks_of = (
        {
            (Problem(**record["problem"]), record["direction"]): record[kind]
            for record in result["records"]
        }
        for kind in ("times", "peaks")
    )
    rows = []
    for number, stage in enumerate(STAGES, 1):
        for direction in DIRECTIONS:
            task = Problem(result["batch"], *stage), direction
            times, peaks = times_of.get(task, {}), peaks_of.get(task, {})
            if ours not in times:
                continue
            row = [f"stage {number}, {direction}"]
            for name in (EAGER, REFERENCE, SDPA):
                row.append(versus(times, name, ours) if name in times else "")
            row.append(
                three_digits(peaks[ours] / peaks[EAGER]) if peaks.get(EAGER) else ""
            )
            rows.append(row)
    parts = []
    if rows:
        header = (
            f"batch {result['batch']}",
            f"time of {EAGER} / {ours}",
            f"time of {REFERENCE} / {ours}",
            f"time of {SDPA} / {ours}",
            f"memory of {ours} / {EAGER}",
        )
        parts += [
            "Time, and peak memory beyond inputs and results, in the stages of "
            "SeTformer-T (ratios of medians; in brackets, of opposite quartiles):",
            markdown_table(header, rows),
        ]
    small, large = map(single_image, SWEEP[-2:])
    for direction in DIRECTIONS:
        both = [times_of.get((p, direction), {}).get(ours) for p in (small, large)]
        if all(both):
            growth = versus(dict(zip(("small", "large"), both)), "large", "small")
            parts.append(
                f"Time of {ours}, {direction}, with {large.tokens} tokens / with "
                f"{small.tokens}: {growth}"
            )
    return "\n\n".join(parts)


def of_direction(result: dict, direction: str) -> list[dict]:
    """The records of one direction."""
    return [r for r in result["records"] if r["direction"] == direction]


def columns(result: dict, direction: str) -> list[str]:
    """The contenders that have a figure in this direction, ours first."""
    records = of_direction(result, direction)
    return [
        name
        for name in result["contenders"]
        if any(name in record["times"] for record in records)
    ]


def draw(result: dict) -> "Figure":
    """Time against the number of tokens of the single image, a panel a direction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, direction in zip(panels, DIRECTIONS):
        for index, name in enumerate(result["contenders"]):
            points = {}
            for record in of_direction(result, direction):
                problem = Problem(**record["problem"])
                if name in record["times"] and problem == single_image(problem.tokens):
                    points[problem.tokens] = 1000 * median(record["times"][name])
            style = dict(color=f"C{index}") if index else OURS_STYLE
            if points:
                panel.loglog(*zip(*sorted(points.items())), ".-", label=name, **style)
        panel.set_title(direction)
        panel.set_xlabel("tokens")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("milliseconds, one image of two heads")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(describe(result["environment"]), fontsize="small")
    return figure


def main() -> None:
    """Check, then measure, then report."""
    args = parse_args()
    start(args)
    # The reference caches a function of shapes, which the compiler traces instead.
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru")
    names, missing = contenders_of(args)
    if not names:
        sys.exit(f"error: there is nothing to measure: {missing}")
    tasks = tasks_of(args)
    progress = Progress(2 * sum(OVERHEAD + work(*task) for task in tasks))
    errors = gate(args, names, tasks, progress)
    worst = max(errors, key=errors.get)
    print(
        f"All {len(names)} contenders agree with their formulas; the largest error is "
        f"{100 * errors[worst]:.0f} % of what is tolerated ({worst}).\n"
    )
    result = dict(
        environment=environment(args.device) | dict(dtype=args.dtype),
        contenders=names,
        missing=missing,
        errors=errors,
        batch=args.batch,
        records=measure(args, names, tasks, progress),
    )
    if POT in names:
        result["environment"]["POT"] = version("POT")
    publish(args, result, render, draw)


if __name__ == "__main__":
    main()
