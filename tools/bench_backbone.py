"""Images a second and memory of SeTformer beside backbones of timm of about its size.

``python tools/bench_backbone.py`` measures inference and a training step, of
classifiers at 224 x 224 and of feature pyramids, as detectors use, at 800 x 1280.
Weights are random. No speed is shown unless all outputs are finite and of the right
shape, and SeTformer computes the same with the compiled operator and the reference.
"""

import argparse
import re
import sys
import warnings
from dataclasses import asdict, replace

from toolkit.flags import add_benchmark_arguments, positive_integer


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_benchmark_arguments(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw a picture (PNG)")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="of timm, or setformer_{mini,tiny,small,base}; speeds are relative to "
        "Swin-T if it is there, else to the first",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="SIZE",
        help="SIDE for a classifier, HEIGHTxWIDTH for a feature pyramid",
    )
    parser.add_argument(
        "--batch", type=positive_integer, default=8, help="images for classifiers"
    )
    parser.add_argument(
        "--all-backends",
        action="store_true",
        help="measure SeTformer with every backend, not with the best alone",
    )
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="measure every model under torch.compile, too, which takes a minute or "
        "more for each of its settings",
    )
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 2 if args.quick else 9
    if args.models is None:
        from toolkit.benchmarks.backbones import MODELS, QUICK_MODELS

        args.models = ("setformer_tiny", *(QUICK_MODELS if args.quick else MODELS))
    if args.sizes is None:
        args.sizes = ("224",) if args.quick else ("224", "800x1280")
    for size in args.sizes:
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", size):
            parser.error(f"--sizes must look like 224 or 800x1280, got {size}")
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import timm
import torch

from toolkit.benchmarks.backbone_checks import (
    TOLERANCE,
    TOLERANCE_BF16,
    Refusal,
    gate,
    require_close,
)
from toolkit.benchmarks.backbone_tables import draw, render
from toolkit.benchmarks.backbones import (
    BASELINE,
    Entry,
    Setting,
    count_parameters,
    prepare,
)
from toolkit.benchmarks.measuring import backends_on, peak_memory
from toolkit.benchmarks.reporting import Progress, publish, start
from toolkit.timing import environment, interleave


def entries_of(args: argparse.Namespace) -> tuple[list[Entry], dict[str, str]]:
    """What to measure, and which backends of SeTformer are missing why."""
    backends, missing = backends_on(args.device)
    if not args.all_backends:
        backends = backends[:1]
    entries = []
    for model in args.models:
        if model.startswith("setformer_"):
            entries += [Entry(model, backend=backend) for backend in backends]
        else:
            entries.append(Entry(model))
    if args.compile:
        entries += [replace(entry, compiled=True) for entry in entries]
    return entries, missing


def settings_of(args: argparse.Namespace) -> list[Setting]:
    """Every size, for inference and for training."""
    settings = []
    for size in args.sizes:
        height, _, width = size.partition("x")
        settings += [
            Setting(
                height=int(height),
                width=int(width or height),
                dense=bool(width),
                batch=1 if width else args.batch,
                training=training,
                device=args.device,
                bf16=args.bf16,
            )
            for training in (False, True)
        ]
    return settings


def check_all(
    entries: list[Entry], settings: list[Setting], progress: Progress
) -> tuple[dict[Setting, list[Entry]], dict[str, str]]:
    """Pass everything through the gate.

    Returns:
        tuple[dict, dict]: The entries to measure by setting, and why others are not.
    """
    able: dict[Setting, list[Entry]] = {}
    refusals = {}
    for setting in settings:
        if setting.training:  # its models have passed for inference
            able[setting] = able[replace(setting, training=False)]
            continue
        able[setting] = []
        for entry in entries:
            progress.now(f"checking {entry.name} at {setting}")
            try:
                able[setting].append(gate(entry, setting))
            except Refusal as refusal:
                refusals[f"{entry.name} at {setting.size}"] = str(refusal)
            progress.add(work(setting))
    return able, refusals


def measure(
    args: argparse.Namespace,
    setting: Setting,
    entries: list[Entry],
    progress: Progress,
) -> dict:
    """Measure entries side by side.

    Returns:
        dict: A record with the setting, ``times`` (seconds a batch, one number a round)
        and ``peaks`` (bytes) by the name of the entry.
    """
    calls, outputs = {}, {}
    for entry in entries:
        progress.now(f"preparing {entry.name} at {setting}")
        calls[entry.name] = prepare(entry, setting)
        outputs[entry.name] = calls[entry.name]()
        if entry.compiled and not setting.training:
            expected = outputs[replace(entry, compiled=False).name]
            limit = TOLERANCE_BF16 if setting.bf16 else TOLERANCE
            require_close(
                entry, setting, "outputs", outputs[entry.name], expected, limit
            )
        progress.add(work(setting))
    del outputs
    progress.now(f"timing at {setting}")
    times = interleave(
        calls,
        setting.device,
        args.rounds,
        tick=lambda: progress.add(work(setting)),
    )
    del calls
    peaks = {}
    for entry in entries:
        if args.no_memory or entry.compiled:  # compiling once more takes too long
            continue
        progress.now(f"measuring the memory of {entry.name} at {setting}")
        peaks[entry.name] = peak_memory(
            prepare,
            entry,
            setting,
            device=setting.device,
            threads=torch.get_num_threads(),
            repeats=1,
        )
        progress.add(work(setting))
    return dict(setting=asdict(setting), times=times, peaks=peaks)


def work(setting: Setting) -> int:
    """What the time of a batch is about proportional to."""
    return setting.pixels * (3 if setting.training else 1)


def total_work(
    args: argparse.Namespace, entries: list[Entry], settings: list[Setting]
) -> int:
    """All work of the script, to tell how long it will take."""
    memory = 0 if args.no_memory else 1
    batches = sum(work(setting) * (1 + args.rounds + memory) for setting in settings)
    checks = sum(work(setting) for setting in settings if not setting.training)
    return len(entries) * (checks + batches)


def main() -> None:
    """Check, then measure, then report."""
    args = parse_args()
    start(args)
    warnings.filterwarnings("ignore", module="timm")
    entries, missing = entries_of(args)
    settings = settings_of(args)
    progress = Progress(total_work(args, entries, settings))
    able, missing_by_size = check_all(entries, settings, progress)
    parameters = {
        entry.name: count_parameters(entry)
        for entry in entries
        if any(entry.name == other.name for others in able.values() for other in others)
    }
    if not parameters:
        sys.exit(f"error: there is nothing to measure: {missing_by_size}")
    print(
        "All outputs are finite and of the right shape, and SeTformer's backends agree "
        "with the reference.\n"
    )
    dtype = "bfloat16 autocast" if args.bf16 else "float32"
    versions = dict(dtype=dtype, timm=timm.__version__)
    result = dict(
        environment=environment(args.device) | versions,
        baseline=BASELINE if BASELINE in parameters else next(iter(parameters)),
        parameters=parameters,
        missing=missing | missing_by_size,
        records=[
            measure(args, setting, able[setting], progress) for setting in settings
        ],
    )
    publish(args, result, render, draw)


if __name__ == "__main__":
    main()
