"""The operator on a GPU: time beside the roofline, and beside other ways to compute it.

``python tools/bench_gpu.py`` measures the four stages of SeTformer-T at 224 x 224,
the first two at 800 x 1280, and one image of 70,000 tokens. Nothing is measured unless
output and gradients first agree with the reference in float64 on the CPU. Figures are
written after every case, so that a run that is cut short keeps what it had.

``--device cpu --quick`` goes the same way in seconds, to test the way, not the speed.
"""

import argparse
import math
import sys
import time
import warnings
from dataclasses import asdict, replace

from toolkit.flags import positive_integer


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--threads", type=positive_integer, help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="a small case in seconds")
    parser.add_argument(
        "--rounds", type=positive_integer, help="turns of each contender"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="start no further case after so long",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--compiled",
        action="store_true",
        help="measure the reference under torch.compile, both passes, and nothing else",
    )
    what.add_argument(
        "--once",
        action="store_true",
        help="run both passes of a small case once, for a sanitizer to watch",
    )
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 2 if args.quick else 7
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch

from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.json_text import json_text
from toolkit.benchmarks.contenders import (
    BOTH,
    COMPILED,
    DIRECTIONS,
    DTYPES,
    EAGER,
    FORWARD,
    REFERENCE,
    SDPA,
    SET,
    TOLERANCES,
    bind,
    make_inputs,
    prepare,
    through_op,
)
from toolkit.benchmarks.gpu_cases import CASES, COMPILED_CASES, QUICK_CASES, SMALL, Case
from toolkit.benchmarks.measuring import TURN_SECONDS, backends_on, peak_memory, queued
from toolkit.benchmarks.reporting import start
from toolkit.benchmarks.roofline import Ceilings, cost, floors, measure_ceilings
from toolkit.timing import environment, interleave

# More tokens than these, and softmax attention takes too long to wait for.
MOST_TOKENS_SDPA = 3136
# Inputs take turns until their memory is so many times the cache; see prepare().
CACHES, MOST_COPIES = 4, 64


def backend_on(device: str) -> str:
    """The compiled backend for a device, or the end of the script."""
    names, missing = backends_on(device)
    if device in names:
        return device
    if device == "cpu":  # where this is about the way alone, the reference will do
        return names[0]
    sys.exit(f"error: backend {device!r} cannot be used: {missing[device]}")


def errors_of(case: Case, backend: str, device: str) -> dict[str, float]:
    """Compare the operator with the reference in float64 on the CPU.

    Two images are repeated to fill the batch, so that every image the operator computes
    is compared and the reference computes two.

    Returns:
        dict[str, float]: Errors of the output and of the worst gradient as shares of
        what is tolerated.
    """
    problem, dtype = case.problem, DTYPES[case.dtype]
    images = math.gcd(problem.batch, 2)
    copies = problem.batch // images
    few = replace(problem, batch=images)
    x, *maps, grad = make_inputs(SET, few, "cpu", dtype)
    wide = [t.double() for t in (x, *maps, grad)]
    out, x_grad, *map_grads = bind(through_op(few, x, REFERENCE), wide, BOTH)()

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().repeat(copies, 1, 1, 1)

    inputs = [t.to(device) for t in (fill(x), *(m.detach() for m in maps), fill(grad))]
    actual = bind(through_op(problem, inputs[0], backend), inputs, BOTH)()
    expected = [fill(out), fill(x_grad), *(copies * grad for grad in map_grads)]
    errors = [
        ((a.detach().cpu().double() - e).norm() / e.norm()).item()
        for a, e in zip(actual, expected, strict=True)
    ]
    # NaN, which compares as neither larger nor smaller, counts as the largest.
    errors = [error if error == error else math.inf for error in errors]
    tolerances = TOLERANCES[dtype]
    return dict(
        output=errors[0] / tolerances[FORWARD],
        gradients=max(errors[1:]) / tolerances[BOTH],
    )


def gate(cases: list[Case], backend: str, device: str) -> dict[str, dict[str, float]]:
    """Check every case, and end the script if one is wrong."""
    errors = {}
    for case in cases:
        say(f"checking {case}")
        errors[str(case)] = errors_of(case, backend, device)
        for what, error in errors[str(case)].items():
            if error > 1:
                sys.exit(
                    f"error: backend {backend!r} is wrong for {case}: the error of "
                    f"its {what} is {error:.3g} times what is tolerated; nothing was "
                    "measured"
                )
    return errors


def copies_for(case: Case, device: str) -> int:
    """How many sets of inputs do not fit the cache together."""
    if device != "cuda":
        return 2
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    inputs = cost(case.problem, FORWARD, DTYPES[case.dtype]).moved_bytes
    return min(MOST_COPIES, max(2, math.ceil(CACHES * cache / inputs)))


def contenders_for(case: Case, direction: str, backend: str) -> list[str]:
    """What a case is measured with, ours first."""
    names = [backend, REFERENCE, EAGER]
    if case.problem.tokens <= MOST_TOKENS_SDPA:
        names.append(SDPA)
    return list(dict.fromkeys(names))


def measure(
    case: Case,
    direction: str,
    backend: str,
    args: argparse.Namespace,
    ceilings: dict[str, Ceilings],
) -> dict:
    """Measure a case in one direction.

    Returns:
        dict: ``times`` (seconds a call, one number a round) and ``peaks`` (bytes) by
        contender, ``queued`` (seconds without waiting for the host, ours alone), what
        the case costs, and the ``floors`` (seconds) of that.
    """
    settings = case.problem, direction, args.device, DTYPES[case.dtype]
    copies = copies_for(case, args.device)
    calls, skipped = {}, {}
    for name in contenders_for(case, direction, backend):
        try:
            calls[name] = prepare(name, *settings, copies)
            for _ in range(copies):
                calls[name]()
        except Exception as error:  # of any type: others may not run here
            if name == backend:
                raise
            calls.pop(name, None)
            skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    turn = 0 if args.quick else TURN_SECONDS
    times = interleave(calls, args.device, args.rounds, turn)
    alone = queued(calls[backend], args.device, args.rounds)
    del calls
    peaks = {}
    if args.device == "cuda":
        peaks = {
            name: peak_memory(
                prepare, name, *settings, device="cuda", threads=1, repeats=1
            )
            for name in times
        }
    needed = cost(case.problem, direction, DTYPES[case.dtype])
    return dict(
        case=asdict(case),
        direction=direction,
        ours=backend,
        copies=copies,
        times=times,
        queued=alone,
        peaks=peaks,
        skipped=skipped,
        cost=needed._asdict(),
        floors=floors(needed, ceilings[case.dtype]),
    )


def measure_compiled(case: Case, backend: str, args: argparse.Namespace) -> dict:
    """Measure both passes of the compiled reference beside ours."""
    calls, skipped = {}, {}
    for name in (backend, COMPILED):
        settings = case.problem, BOTH, args.device, DTYPES[case.dtype]
        try:
            calls[name] = prepare(name, *settings, copies_for(case, args.device))
            for _ in range(3):
                calls[name]()
        except Exception as error:  # of any type: compilers have reasons of their own
            calls.pop(name, None)
            skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    turn = 0 if args.quick else TURN_SECONDS
    times = interleave(calls, args.device, args.rounds, turn)
    record = dict(case=asdict(case), direction=BOTH, ours=backend)
    return record | dict(times=times, skipped=skipped)


def run_once(backend: str, device: str) -> None:
    """Run both passes of a small case."""
    case = SMALL
    prepare(backend, case.problem, BOTH, device, DTYPES[case.dtype])()
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{backend}: {case}: both passes have run")


def say(what: str) -> None:
    """Tell what is being done."""
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Check, then measure, writing as it goes."""
    args = parse_args()
    begin = time.monotonic()
    start(args)
    # The reference caches a function of shapes, which the compiler traces instead.
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru")
    backend = backend_on(args.device)
    if args.once:
        run_once(backend, args.device)
        return
    cases = COMPILED_CASES if args.compiled else CASES
    if args.quick:
        cases = QUICK_CASES
    result = dict(environment=environment(args.device), records=[], skipped={})
    if not args.compiled:
        result["errors"] = gate(cases, backend, args.device)
        say("measuring the rates of copies and matrix products")
        ceilings = measure_ceilings(args.device, args.quick)
        result["ceilings"] = {name: c._asdict() for name, c in ceilings.items()}
    directions = (BOTH,) if args.compiled else DIRECTIONS
    for case in cases:
        for direction in directions:
            if time.monotonic() - begin > args.seconds:
                result["skipped"][f"{case}, {direction}"] = "no time was left"
            else:
                say(f"measuring {case}, {direction}")
                if args.compiled:
                    record = measure_compiled(case, backend, args)
                else:
                    record = measure(case, direction, backend, args, ceilings)
                result["records"].append(record)
            if args.json:
                write_atomically(args.json, json_text(result, indent=1))
    if not args.json:
        print(json_text(result, indent=1), end="")


if __name__ == "__main__":
    main()
