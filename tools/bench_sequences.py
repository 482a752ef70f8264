"""Time and memory of the sequence encoder against the length, beside softmax attention.

``python tools/bench_sequences.py`` measures one sequence of 512 to 65,536 tokens in the
encoder of ``tools/train_sequences.py`` (two blocks of 64 channels and two heads), with
each of its mixers in the attention slot: the forward pass and both passes. Softmax
attention is torch's fused ``scaled_dot_product_attention``. Nothing is measured unless
each encoder, and its gradients, first agree with themselves in float64, where SeT
attention runs as its reference.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

from toolkit.flags import add_benchmark_arguments, positive_integer
from toolkit.sequences.grid import MIXERS, MODEL

LENGTHS = tuple(2**n for n in range(9, 17))
QUICK_LENGTHS = LENGTHS[:3]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_benchmark_arguments(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw a picture (PNG)")
    parser.add_argument(
        "--document", type=Path, help="a document with a section for the tables"
    )
    parser.add_argument(
        "--lengths", type=positive_integer, nargs="+", metavar="N", help="tokens"
    )
    parser.add_argument(
        "--mixers", nargs="+", choices=MIXERS, default=[*MIXERS], metavar="MIXER"
    )
    parser.add_argument(
        "--longest-call",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="leave a mixer out where one call would take longer",
    )
    args = parser.parse_args()
    if args.lengths is None:
        args.lengths = QUICK_LENGTHS if args.quick else LENGTHS
    if args.rounds is None:
        args.rounds = 3 if args.quick else 5
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch
from torch import Tensor

from setformer_mm.models import SeTEncoder
from toolkit.benchmarks.measuring import (
    TURN_SECONDS,
    largest_share,
    peak_memory,
    use_backend,
)
from toolkit.benchmarks.reporting import Progress, publish, start
from toolkit.sequences.growth import draw, render
from toolkit.timing import Call, environment, interleave

DIRECTIONS = ("forward", "forward and backward")
CHECKED_LENGTH = 512
TOLERANCE = 1e-3  # of an error, as a share of the largest entry


def build(mixer: str, device: str, dtype: torch.dtype = torch.float32) -> SeTEncoder:
    """The encoder with a mixer, of the same weights whenever it is built."""
    torch.manual_seed(0)
    encoder = SeTEncoder(
        MODEL["num_hidden_layers"],
        MODEL["hidden_size"],
        MODEL["num_attention_heads"],
        MODEL["intermediate_size"] / MODEL["hidden_size"],
        MIXERS[mixer],
    )
    return encoder.to(device, dtype)


def random_sequence(length: int, device: str) -> Tensor:
    """One sequence, the same whenever it is drawn."""
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(1, length, MODEL["hidden_size"], generator=generator)
    return x.to(device)


def prepare(mixer: str, direction: str, length: int, device: str) -> Call:
    """A call that runs the encoder and returns what it makes."""
    encoder, x = build(mixer, device), random_sequence(length, device)
    if direction == DIRECTIONS[0]:
        return torch.inference_mode()(lambda: encoder(x))
    x.requires_grad_()
    inputs = [x, *encoder.parameters()]
    return lambda: torch.autograd.grad(loss_of(encoder(x)), inputs)


def loss_of(out: Tensor) -> Tensor:
    """What gradients are of; that of squares would be constant, after a norm."""
    weights = torch.linspace(-1, 1, out.shape[1], device=out.device, dtype=out.dtype)
    return (out * weights[:, None]).cos().mean()


def largest_error(mixer: str, device: str) -> float:
    """Of output, and gradients, against float64, as a share of their largest entry."""
    found = []
    for dtype in (torch.float32, torch.float64):
        encoder = build(mixer, device, dtype)
        if dtype == torch.float64:
            use_backend(encoder, "reference")
        x = random_sequence(CHECKED_LENGTH, device).to(dtype).requires_grad_()
        out = encoder(x)
        inputs = [x, *encoder.parameters()]
        gradients = torch.autograd.grad(loss_of(out), inputs)
        gradients = torch.cat([gradient.flatten() for gradient in gradients])
        found.append((out.detach(), gradients))
    return largest_share(*found)


def measure(args: argparse.Namespace, progress: Progress) -> list[dict]:
    """Measure all mixers at all lengths, except where it takes too long.

    Returns:
        list[dict]: One record a length and direction, with ``times`` (seconds a call,
        one number a round) and ``peaks`` (bytes) by mixer.
    """
    records: list[dict] = []
    for length, direction in product(sorted(args.lengths), DIRECTIONS):
        progress.now(f"{length} tokens, {direction}")
        calls = {}
        for mixer in args.mixers:
            if expected_seconds(mixer, length, direction, records) < args.longest_call:
                calls[mixer] = prepare(mixer, direction, length, args.device)
                calls[mixer]()
        times = interleave(calls, args.device, args.rounds, TURN_SECONDS)
        del calls
        peaks = {}
        if not args.no_memory:
            for mixer in times:
                peaks[mixer] = peak_memory(
                    prepare,
                    mixer,
                    direction,
                    length,
                    args.device,
                    device=args.device,
                    threads=torch.get_num_threads(),
                    repeats=1,
                )
        records.append(
            dict(length=length, direction=direction, times=times, peaks=peaks)
        )
        progress.add(length)
    return records


def expected_seconds(
    mixer: str, length: int, direction: str, records: list[dict]
) -> float:
    """Seconds of a call at most, from the largest length before; 0 if there is none."""
    known = [r for r in records if r["direction"] == direction and mixer in r["times"]]
    if not known:
        return 0.0
    largest = max(known, key=lambda record: record["length"])
    growth = 2 if mixer == "softmax" else 1
    return min(largest["times"][mixer]) * (length / largest["length"]) ** growth


def main() -> None:
    """Check, then measure, then report."""
    args = parse_args()
    start(args, "growth")
    for mixer in args.mixers:
        error = largest_error(mixer, args.device)
        if not error < TOLERANCE:
            sys.exit(
                f"error: the encoder with {mixer} is wrong: it differs from float64 by "
                f"{error:.3g} of the largest entry; nothing was measured"
            )
    progress = Progress(2 * sum(args.lengths))
    result = dict(
        environment=environment(args.device) | dict(dtype="float32"),
        mixers=args.mixers,
        directions=DIRECTIONS,
        records=measure(args, progress),
    )
    publish(args, result, render, draw, section="growth")


if __name__ == "__main__":
    main()
