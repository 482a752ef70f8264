"""Accuracy, size and time of the classifier of digits, quantised in PyTorch.

``python tools/bench_quantization.py`` runs the classifier of digits on its test set in
float32, in bfloat16 by autocast, and in INT8 as torch.ao and torchao make it, each as
it is and compiled (not torch.ao's, at whose layers a graph would break). Weights are
those of the checkpoint: nothing is calibrated or trained. Nothing is timed unless every
linear layer has been quantised and logits are near those of float32.
"""

import argparse
from pathlib import Path

from toolkit.flags import positive_integer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--batches",
        type=positive_integer,
        nargs="+",
        default=[64, 1],
        help="pictures at a time",
    )
    parser.add_argument(
        "--rounds", type=positive_integer, default=7, help="turns of each contender"
    )
    parser.add_argument(
        "--threads",
        type=positive_integer,
        help="CPU threads (default: as many as torch takes)",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave compiled models out"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument(
        "--document", type=Path, help="a document with a section for the table"
    )
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import copy
import io
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from setformer_mm.utils.errors import UserError
from toolkit.benchmarks.digits_classifier import CONFIG, load_test_set, trained
from toolkit.benchmarks.measuring import TURN_SECONDS
from toolkit.benchmarks.quantization_tables import render
from toolkit.benchmarks.reporting import Progress, publish, start
from toolkit.launch import read_config, run_tool
from toolkit.preflight import require_data
from toolkit.quantisers import QUANTISERS, count_layers, torch_ao_dynamic
from toolkit.timing import environment, interleave

# From pictures (B, 3, H, W) to logits (B, classes).
Classifier = Callable[[Tensor], Tensor]

TOLERANCE = 0.1  # of logits, as a share of those in float32


class Precision(NamedTuple):
    """A way to run the classifier.

    Attributes:
        model: Quantised, if it is.
        autocasts: Whether to bfloat16.
        compiles: Whether ``torch.compile`` takes it.
    """

    model: nn.Module
    autocasts: bool = False
    compiles: bool = True

    def classifier(self, compiled: bool) -> Classifier:
        model = copy.deepcopy(self.model)
        if compiled:
            model = torch.compile(model, fullgraph=True, dynamic=False)

        @torch.inference_mode()
        def classify(pictures: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocasts):
                return model(pictures, mode="tensor")

        return classify


def precisions(model: nn.Module) -> dict[str, Precision]:
    """All of them by name.

    Raises:
        UserError: if a quantiser left linear layers out.
    """
    made = {
        "float32": Precision(model),
        "bfloat16, autocast": Precision(model, autocasts=True),
    }
    for name, quantise in QUANTISERS.items():
        quantised = quantise(model)
        done, layers = count_layers(quantised)
        if done < layers:
            raise UserError(
                f"{name} quantised {done} of {layers} linear layers; nothing was "
                "measured"
            )
        compiles = quantise is not torch_ao_dynamic
        made[f"INT8, {name}"] = Precision(quantised, compiles=compiles)
    return made


def logits_of(classifier: Classifier, pictures: Tensor, batch: int) -> Tensor:
    """Logits of all pictures, in whole batches: a compiled model is for one size."""
    count = len(pictures)
    indices = torch.arange(-(-count // batch) * batch) % count
    chunks = [classifier(pictures[chunk]) for chunk in indices.split(batch)]
    return torch.cat(chunks)[:count].float()


def bytes_of(model: nn.Module) -> int:
    """How long a file of its weights is."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return len(buffer.getvalue())


def checked(
    args: argparse.Namespace, model: nn.Module, pictures: Tensor, labels: Tensor
) -> tuple[list[dict], dict[str, Classifier]]:
    """Run the test set in all precisions, each as it is and compiled.

    Returns:
        tuple[list[dict], dict[str, Classifier]]: A record of each, and what to time.

    Raises:
        UserError: if logits are far from those of float32.
    """
    classifiers: dict[str, Classifier] = {}
    records: list[dict] = []
    expected = None
    ways = {
        name + ", compiled" * compiled: (precision, compiled)
        for name, precision in precisions(model).items()
        for compiled in (False, True)
        if not compiled or (precision.compiles and not args.no_compile)
    }
    progress = Progress(len(ways))
    for name, (precision, compiled) in ways.items():
        progress.now(name)
        classifiers[name] = precision.classifier(compiled)
        logits = logits_of(classifiers[name], pictures, args.batches[0])
        expected = logits if expected is None else expected
        error = float((logits - expected).norm() / expected.norm())
        if not error < TOLERANCE:
            raise UserError(
                f"the classifier in {name} is wrong: its logits differ from those in "
                f"float32 by {error:.3g} of their size; nothing was measured"
            )
        answers = logits.argmax(1)
        records.append(
            dict(
                precision=name,
                accuracy=100 * float((answers == labels).float().mean()),
                other_answers=int((answers != expected.argmax(1)).sum()),
                error=error,
                bytes=bytes_of(precision.model),
            )
        )
        progress.add(1)
    return records, classifiers


def timed(
    args: argparse.Namespace, classifiers: dict[str, Classifier], pictures: Tensor
) -> dict[str, dict[int, list[float]]]:
    """Seconds a batch, one number a round, by classifier and size of the batch."""
    times: dict[str, dict[int, list[float]]] = {name: {} for name in classifiers}
    for batch in args.batches:
        some = pictures[torch.arange(batch) % len(pictures)]
        calls = {name: partial(run, some) for name, run in classifiers.items()}
        for call in calls.values():
            call()
        taken = interleave(calls, "cpu", args.rounds, TURN_SECONDS)
        for name, seconds in taken.items():
            times[name][batch] = seconds
    return times


def main() -> None:
    """Check, then measure, then report."""
    args = parse_args()
    start(args, "quantization")
    cfg = read_config(CONFIG)
    require_data(cfg, ("test",))
    init_default_scope(cfg.default_scope)
    model = trained(cfg)
    pictures, labels = load_test_set(cfg, model)
    records, classifiers = checked(args, model, pictures, labels)
    times = timed(args, classifiers, pictures)
    result = dict(
        environment=environment("cpu")
        | dict(dtype="types as named", torchao=version("torchao")),
        pictures=len(pictures),
        records=[record | dict(times=times[record["precision"]]) for record in records],
    )
    publish(args, result, render, section="quantization")


if __name__ == "__main__":
    run_tool(main)
