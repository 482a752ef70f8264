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
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, NoReturn

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from setformer_mm.models import SeTAttention, SeTformer
from setformer_mm.utils.markdown import markdown_table, three_digits
from toolkit.benchmarks.measuring import backends_on, peak_memory
from toolkit.benchmarks.reporting import (
    Progress,
    add_common_arguments,
    describe,
    publish,
    start,
    versus,
)
from toolkit.timing import Call, environment, interleave

if TYPE_CHECKING:  # only pictures need it
    from matplotlib.figure import Figure

BASELINE = "swin_tiny_patch4_window7_224"
QUICK_MODELS = (BASELINE, "convnext_tiny", "davit_tiny")
MODELS = (
    *QUICK_MODELS,
    "focalnet_tiny_lrf",
    "caformer_s18",
    "mambaout_tiny",
    "hiera_tiny_224",
    "pvt_v2_b2",
    "resnet50",
)
NUM_CLASSES = 1000
STRIDES = (4, 8, 16, 32)
# What two ways to run a model may differ by, relative to the norm.
TOLERANCE, TOLERANCE_BF16 = 1e-4, 5e-2
# Parameters whose gradients come through the operator and no way around it.
BEHIND_OPERATOR = ("in_proj.weight", "anchors", "references", "return_references")


@dataclass(frozen=True)
class Setting:
    """What a model is measured at.

    Attributes:
        dense: Whether it gives a feature pyramid, not scores of classes.
        bf16: Whether it runs under autocast to bfloat16.
    """

    height: int
    width: int
    dense: bool
    batch: int
    training: bool
    device: str
    bf16: bool

    @property
    def task(self) -> str:
        """What is done, in words."""
        return "training" if self.training else "inference"

    @property
    def pixels(self) -> int:
        """Pixels of a batch."""
        return self.batch * self.height * self.width

    @property
    def size(self) -> str:
        """Size of the images, in words."""
        return f"{self.height} x {self.width}"

    def __str__(self) -> str:
        return f"{self.size}, batch {self.batch}, {self.task}"


@dataclass(frozen=True)
class Entry:
    """What gets a row in the tables.

    Attributes:
        model: A model of timm, or "setformer_" and a variant.
        backend: Backend of the operator, for SeTformer alone.
        tell_size: Whether the model has to be told the size of the images.
        compiled: Whether it runs under ``torch.compile``.
    """

    model: str
    backend: str = ""
    tell_size: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name of the row."""
        backend = f" ({self.backend})" if self.backend else ""
        return f"{self.model}{backend}{', compiled' if self.compiled else ''}"


class Refusal(Exception):
    """A model does not run at the size asked for."""


class SeTformerClassifier(nn.Module):
    """SeTformer with one linear layer on its averaged features."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.backbone = SeTformer(variant, out_indices=(3,), gap_before_final_norm=True)
        self.head = nn.Linear(self.backbone.embed_dims[-1], NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1])


def build(entry: Entry, setting: Setting) -> nn.Module:
    """Make a model with random weights, always the same ones."""
    torch.manual_seed(0)
    if entry.backend:
        variant = entry.model.removeprefix("setformer_")
        model = SeTformer(variant) if setting.dense else SeTformerClassifier(variant)
        use_backend(model, entry.backend)
    else:
        kind = dict(features_only=True) if setting.dense else {}
        if entry.tell_size:
            kind["img_size"] = (setting.height, setting.width)
        model = timm.create_model(entry.model, num_classes=NUM_CLASSES, **kind)
        for module in model.modules():
            if isinstance(module, timm.layers.DropPath):
                module.drop_prob = 0.0  # some have it by default and do less work
    model = model.to(setting.device).train(setting.training)
    return torch.compile(model) if entry.compiled else model


def use_backend(model: nn.Module, backend: str) -> None:
    """Choose the implementation of the operator."""
    for module in model.modules():
        if isinstance(module, SeTAttention):
            module.backend = backend


def make_images(setting: Setting) -> Tensor:
    """A batch of noise, always the same one."""
    torch.manual_seed(1)
    shape = setting.batch, 3, setting.height, setting.width
    return torch.randn(shape).to(setting.device)


def infer(model: nn.Module, images: Tensor, setting: Setting) -> list[Tensor]:
    """Scores in a list, or the maps of a pyramid."""
    with torch.inference_mode(), autocast(setting):
        out = model(images)
    return list(out) if setting.dense else [out]


def backpropagate(model: nn.Module, images: Tensor, setting: Setting) -> None:
    """Accumulate the gradients of a loss that all outputs have part in."""
    with autocast(setting):
        out = model(images)
    if setting.dense:
        # Not of squares, whose sum a LayerNorm makes the same for all images.
        loss = sum(feature.float().relu().mean() for feature in out)
    else:
        labels = torch.arange(setting.batch, device=setting.device)
        loss = F.cross_entropy(out.float(), labels)
    loss.backward()


def autocast(setting: Setting):
    """Mixed precision if it is asked for."""
    if setting.bf16:
        return torch.autocast(setting.device, torch.bfloat16)
    return nullcontext()


def prepare(entry: Entry, setting: Setting) -> Call:
    """Make the call that is measured: a batch through inference or a training step."""
    model = build(entry, setting)
    images = make_images(setting)
    if not setting.training:
        return lambda: infer(model, images, setting)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        backpropagate(model, images, setting)
        optimizer.step()
        optimizer.zero_grad()

    return step


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


def gate(entry: Entry, setting: Setting) -> Entry:
    """Check a model at a size.

    Returns:
        Entry: The same one, told the size if it has to be.

    Raises:
        Refusal: If the model does not run at this size.
        SystemExit: If it does and computes something wrong.
    """
    images = make_images(setting)
    reasons = []
    for tell_size in (False,) if entry.backend else (False, True):
        candidate = replace(entry, tell_size=tell_size)
        try:
            model = build(replace(candidate, compiled=False), setting).eval()
            outputs = infer(model, images, setting)
        except Exception as error:  # of any type: models have rules of their own
            reasons.append(f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        check_outputs(candidate, outputs, setting)
        if entry.backend not in ("", "reference"):
            check_backend(candidate, model, images, setting)
        return candidate
    raise Refusal("; told the size: ".join(dict.fromkeys(reasons)))


def check_outputs(entry: Entry, outputs: list[Tensor], setting: Setting) -> None:
    """End the script unless outputs are finite and of the right shape."""
    if setting.dense:
        # Some pyramids begin with a map of stride 2. Channels come first or last.
        expected = [
            (-(-setting.height // stride), -(-setting.width // stride))
            for stride in STRIDES
        ]
        right = len(outputs) >= len(STRIDES) and all(
            size in (out.shape[1:3], out.shape[2:4])
            for size, out in zip(expected, outputs[-len(STRIDES) :])
        )
    else:
        expected = [(setting.batch, NUM_CLASSES)]
        right = [out.shape for out in outputs] == expected
    if not right:
        shapes = [tuple(out.shape) for out in outputs]
        refuse(entry, setting, f"its outputs are {shapes}, not {expected}")
    if not all(out.isfinite().all() for out in outputs):
        refuse(entry, setting, "its outputs are not finite")


def check_backend(
    entry: Entry, model: nn.Module, images: Tensor, setting: Setting
) -> None:
    """End the script unless a backend agrees with the reference on this very model.

    In bfloat16 both have rounding errors that many blocks amplify: the backend may be
    half as far again from float32 as the reference is.
    """
    exact = outputs_and_gradients(
        model, images, replace(setting, bf16=False), "reference"
    )
    limits = dict.fromkeys(exact, TOLERANCE)
    if setting.bf16:
        rounded = outputs_and_gradients(model, images, setting, "reference")
        for what, expected in exact.items():
            error = relative_error(rounded[what], expected)
            limits[what] = max(TOLERANCE_BF16, 1.5 * error)
    actual = outputs_and_gradients(model, images, setting, entry.backend)
    for what, expected in exact.items():
        require_close(entry, setting, what, actual[what], expected, limits[what])


def outputs_and_gradients(
    model: nn.Module, images: Tensor, setting: Setting, backend: str
) -> dict[str, list[Tensor]]:
    """What a backend gives, under the names of what it is."""
    use_backend(model, backend)
    outputs = infer(model, images, setting)
    model.zero_grad()
    backpropagate(model, images, setting)
    gradients = {
        f"gradients of {kind}": [
            parameter.grad
            for name, parameter in model.named_parameters()
            if name.endswith(kind)
        ]
        for kind in BEHIND_OPERATOR
    }
    return dict(outputs=outputs, **gradients)


def relative_error(actual: list[Tensor], expected: list[Tensor]) -> float:
    """How far all of them are from what is expected, relative to its norm."""
    actual, expected = (
        torch.cat([t.flatten().double() for t in tensors])
        for tensors in (actual, expected)
    )
    return ((actual - expected).norm() / expected.norm()).item()


def require_close(
    entry: Entry,
    setting: Setting,
    what: str,
    actual: list[Tensor],
    expected: list[Tensor],
    limit: float,
) -> None:
    """End the script unless two ways to run the same model give the same."""
    error = relative_error(actual, expected)
    if not error <= limit:
        why = f"its {what} differ by {error:.2g} of their norm from what they should be"
        refuse(entry, setting, why)


def refuse(entry: Entry, setting: Setting, why: str) -> NoReturn:
    """End the script without any speed."""
    sys.exit(f"error: {entry.name} is wrong at {setting}: {why}; no speed is shown")


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
        rounds(args, setting),
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


def count_parameters(entry: Entry) -> int:
    """Parameters of the classifier."""
    classifier = Setting(
        height=224,
        width=224,
        dense=False,
        batch=1,
        training=False,
        device="cpu",
        bf16=False,
    )
    model = build(replace(entry, compiled=False), classifier)
    return sum(p.numel() for p in model.parameters())


def work(setting: Setting) -> int:
    """What the time of a batch is about proportional to."""
    return setting.pixels * (3 if setting.training else 1)


def rounds(args: argparse.Namespace, setting: Setting) -> int:
    """How often each model gets its turn; training takes long."""
    if args.rounds is not None:
        return args.rounds
    return 2 if args.quick else 3 if setting.training else 5


def total_work(
    args: argparse.Namespace, entries: list[Entry], settings: list[Setting]
) -> int:
    """All work of the script, to tell how long it will take."""
    memory = 0 if args.no_memory else 1
    batches = sum(
        work(setting) * (1 + rounds(args, setting) + memory) for setting in settings
    )
    checks = sum(work(setting) for setting in settings if not setting.training)
    return len(entries) * (checks + batches)


def render(result: dict) -> str:
    """All tables as Markdown."""
    parts = [
        describe(result["environment"]),
        "Images a second (medians):",
        cells_table(result, images_a_second),
        headline(result),
    ]
    if any(record["peaks"] for record in result["records"]):
        parts += [
            "Peak memory beyond weights, images and outputs, in MiB:",
            cells_table(result, memory),
        ]
    notes = [f"- not available: {n}: {why}" for n, why in result["missing"].items()]
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def headline(result: dict) -> str:
    """The second table, whose ratios are what counts, under its title."""
    title = (
        f"Speed relative to {result['baseline']} (ratios of medians; in brackets, of "
        "opposite quartiles):"
    )
    return f"{title}\n\n{cells_table(result, relative_speed)}"


def cells_table(result: dict, cell: Callable[[dict, dict, str], str]) -> str:
    """A row a model, a column a setting."""
    header = ["", "parameters"]
    header += [str(Setting(**record["setting"])) for record in result["records"]]
    rows = []
    for name, parameters in result["parameters"].items():
        row = [name, f"{parameters / 1e6:.1f} M"]
        for record in result["records"]:
            row.append(cell(result, record, name) if name in record["times"] else "")
        rows.append(row)
    return markdown_table(header, rows)


def images_a_second(result: dict, record: dict, name: str) -> str:
    """A cell of the first table."""
    batch = record["setting"]["batch"]
    return three_digits(batch / median(record["times"][name]))


def relative_speed(result: dict, record: dict, name: str) -> str:
    """A cell of the second table."""
    times, baseline = record["times"], result["baseline"]
    return versus(times, baseline, name) if baseline in times else ""


def memory(result: dict, record: dict, name: str) -> str:
    """A cell of the third table."""
    peak = record["peaks"].get(name)
    return "" if peak is None else f"{peak / 2**20:.0f}"


def draw(result: dict) -> "Figure":
    """Images a second as bars, a panel a setting."""
    from matplotlib.figure import Figure

    records = result["records"]
    names = list(result["parameters"])[::-1]
    figure = Figure(
        figsize=(12, 1.5 + 0.25 * len(names) * -(-len(records) // 2)),
        layout="constrained",
    )
    panels = figure.subplots(-(-len(records) // 2), 2, squeeze=False, sharey=True)
    for panel, record in zip(panels.flat, records):
        setting = Setting(**record["setting"])
        times = record["times"]
        speeds = [
            setting.batch / median(times[name]) if name in times else 0
            for name in names
        ]
        colors = [
            "tab:red" if name.startswith("setformer") else "tab:gray" for name in names
        ]
        bars = panel.barh(names, speeds, color=colors)
        panel.bar_label(bars, [three_digits(s) if s else "" for s in speeds], padding=3)
        panel.margins(x=0.15)
        panel.set_title(f"{setting}: images a second", fontsize="medium")
    figure.suptitle(describe(result["environment"]), fontsize="small")
    return figure


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser)
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="of timm, or setformer_{mini,tiny,small,base}; speeds are relative to "
        f"{BASELINE} if it is there, else to the first",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="SIZE",
        help="SIDE for a classifier, HEIGHTxWIDTH for a feature pyramid",
    )
    parser.add_argument("--batch", type=int, default=8, help="images for classifiers")
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
    if args.models is None:
        args.models = ("setformer_tiny", *(QUICK_MODELS if args.quick else MODELS))
    if args.sizes is None:
        args.sizes = ("224",) if args.quick else ("224", "800x1280")
    for size in args.sizes:
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", size):
            parser.error(f"--sizes must look like 224 or 800x1280, got {size}")
    return args


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
