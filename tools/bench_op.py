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

from toolkit.flags import add_benchmark_arguments


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_benchmark_arguments(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw a picture (PNG)")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of tokens"
    )
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="*",
        metavar="N",
        help="numbers of tokens of the single image, squares",
    )
    parser.add_argument("--batch", type=int, default=8, help="images of the stages")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="only these")
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
    from toolkit.benchmarks.contenders import CONTENDERS
    from toolkit.benchmarks.problems import SWEEP

    if unknown := set(args.contenders or ()) - CONTENDERS.keys():
        known = ", ".join(CONTENDERS)
        parser.error(f"--contenders are some of {known}, got {min(unknown)}")
    if args.tokens is None:
        args.tokens = SWEEP[:4] if args.quick else SWEEP
    for tokens in args.tokens:
        if tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
            parser.error(f"--tokens must be squares, got {tokens}")
    if args.compile is None:
        args.compile = "no" if args.quick else "stages"
    if args.rounds is None:
        args.rounds = 3 if args.quick else 7
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch

from setformer_mm.ops import available_backends
from toolkit.benchmarks.contenders import (
    COMPILED,
    CONTENDERS,
    DIRECTIONS,
    FORWARD,
    POT,
    check,
    prepare,
)
from toolkit.benchmarks.measuring import TURN_SECONDS, backends_on, peak_memory
from toolkit.benchmarks.operator_tables import draw, render
from toolkit.benchmarks.problems import STAGES, Problem, single_image
from toolkit.benchmarks.reporting import Progress, publish, start
from toolkit.timing import environment, interleave

DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)
# Work that every task brings, whatever its size; see work().
OVERHEAD = 50_000


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
