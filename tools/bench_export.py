"""Time of exported models in their engines, beside PyTorch.

``python tools/bench_export.py`` exports the classifier of digits, with its weights, and
SeTformer-T at 224 x 224, with random ones, for one picture of one size; checks each in
its engine, the classifier's answers to its test set, too; and then times all engines in
turn. Nothing is timed unless all agree with PyTorch.
"""

import argparse
from pathlib import Path

from toolkit.flags import positive_integer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=positive_integer, default=9, help="turns of each engine"
    )
    parser.add_argument(
        "--threads",
        type=positive_integer,
        help="CPU threads (default: as many as torch takes)",
    )
    parser.add_argument(
        "--models", nargs="+", choices=["digits", "tiny"], default=["digits", "tiny"]
    )
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="only these")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where to keep the files; those that are there are not made again",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument(
        "--document", type=Path, help="a document with a section for the tables"
    )
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import shutil
import warnings
from functools import partial
from importlib.metadata import version
from tempfile import TemporaryDirectory

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from setformer_mm.configs import path as config_path
from setformer_mm.export import (
    FORMATS,
    Metadata,
    NotAlikeError,
    Part,
    deployed_part,
    require_alike,
)
from setformer_mm.export.checking import Run
from setformer_mm.export.formats import onnx_to_openvino
from setformer_mm.export.int8 import compress_openvino, quantize_onnx
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.installed import is_installed
from toolkit.benchmarks.digits_classifier import CONFIG, load_test_set, trained
from toolkit.benchmarks.export_tables import render
from toolkit.benchmarks.measuring import TURN_SECONDS
from toolkit.benchmarks.reporting import Progress, publish, start
from toolkit.exported_files import in_another_folder, put_in_place
from toolkit.launch import build_model, read_config, run_tool
from toolkit.preflight import require_data
from toolkit.timing import environment, interleave

EAGER, COMPILED = "PyTorch", "PyTorch, compiled"
# By name: the format, and what makes it INT8.
EXPORTED = {
    "ONNX Runtime": ("onnx", None),
    "ONNX Runtime, INT8": ("onnx", quantize_onnx),
    "OpenVINO": ("openvino", None),
    "OpenVINO, INT8 weights": ("openvino", compress_openvino),
    "AOTInductor": ("aoti", None),
}
TOLERANCE, INT8_TOLERANCE = 1e-3, 0.2


def is_here(name: str) -> bool:
    """Whether an engine can run."""
    return not missing(name)


def missing(name: str) -> list[str]:
    """Modules that an engine needs and that are not there."""
    if name not in EXPORTED:
        return []
    to, quantise = EXPORTED[name]
    needs = [*FORMATS[to].needs, *["nncf"] * (quantise is compress_openvino)]
    return [module for module in needs if not is_installed(module)]


def engine(
    name: str, part: Part, images: Tensor, folder: Path
) -> tuple[Run, int | None]:
    """An engine that runs a part, and how many bytes its files have."""
    if name == EAGER:
        return part.module, None
    if name == COMPILED:
        return torch.compile(part.module, fullgraph=True, dynamic=False), None
    to, quantise = EXPORTED[name]
    kind = FORMATS[to]
    path = folder / f"float32{kind.suffix}"
    if not path.exists():
        metadata = Metadata(part.task, part.outputs, (0.0,) * 3, (1.0,) * 3, "RGB")
        through = folder / f"float32{FORMATS['onnx'].suffix}"
        with in_another_folder(path) as made:  # a next run takes it for whole
            if to == "openvino" and through.exists():  # what takes minutes is done
                onnx_to_openvino(through, made, metadata)
            else:
                kind.write(part, images, made, metadata, False)
            put_in_place(made, path, kind)
    if quantise is not None:
        float32, path = path, folder / f"int8{kind.suffix}"
        for suffix in (*kind.companions, kind.suffix):
            shutil.copy(float32.with_suffix(suffix), path.with_suffix(suffix))
        quantise(path)
    files = [path, *(path.with_suffix(suffix) for suffix in kind.companions)]
    return kind.load(path), sum(file.stat().st_size for file in files)


def difference(name: str, run: Run, part: Part, images: Tensor) -> float:
    """How far an engine is from PyTorch, as a share of the largest logit.

    Raises:
        UserError: if it is too far.
    """
    tolerance = INT8_TOLERANCE if "INT8" in name else TOLERANCE
    try:
        (found,) = require_alike(run, part.module, [images], tolerance)
    except NotAlikeError as error:
        raise UserError(f"{name} is wrong: {error}; nothing was measured") from error
    return found.share


def answers(run: Run, pictures: Tensor) -> Tensor:
    """What a classifier says of pictures, one after the other."""
    with torch.inference_mode():
        return torch.cat([run(picture)[0].argmax(1) for picture in pictures.split(1)])


def measure(
    args: argparse.Namespace,
    title: str,
    model: nn.Module,
    pictures: Tensor,
    labels: Tensor | None,
    folder: Path,
) -> dict:
    """Export, check, and time one model.

    Raises:
        UserError: if an engine does not agree with PyTorch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, other = pictures[:1], pictures[1:2]
    part = deployed_part(model, images)
    names = args.engines or [EAGER, COMPILED, *filter(is_here, EXPORTED)]
    progress = Progress(len(names))
    records, runs, expected = [], {}, None
    for name in names:
        progress.now(f"{title}: {name}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # exporters warn of their own ways
            runs[name], size = engine(name, part, images, folder)
        record = dict(engine=name, difference=difference(name, runs[name], part, other))
        record |= dict(bytes=size, accuracy=None, other_answers=None)
        if labels is not None:
            said = answers(runs[name], pictures)
            expected = said if expected is None else expected
            record["accuracy"] = 100 * float((said == labels).float().mean())
            record["other_answers"] = int((said != expected).sum())
        records.append(record)
        progress.add(1)
    with torch.inference_mode():
        calls = {name: partial(run, images) for name, run in runs.items()}
        for call in calls.values():
            call()
        times = interleave(calls, "cpu", args.rounds, TURN_SECONDS)
    return dict(
        title=title,
        records=[record | dict(times=times[record["engine"]]) for record in records],
    )


def digits() -> tuple[str, nn.Module, Tensor, Tensor]:
    """The classifier of digits, and its test set."""
    cfg = read_config(CONFIG)
    require_data(cfg, ("test",))
    init_default_scope(cfg.default_scope)
    model = trained(cfg)
    return "The classifier of digits, 64 x 64", model, *load_test_set(cfg, model)


def tiny() -> tuple[str, nn.Module, Tensor, None]:
    """SeTformer-T, and pictures of noise."""
    torch.manual_seed(0)
    cfg = read_config(str(config_path("setformer_t_in1k")))
    model = build_model(cfg)
    title = "SeTformer-T, 224 x 224, random weights"
    return title, model, torch.randn(2, 3, 224, 224), None


def main() -> None:
    """Check, then measure, then report."""
    args = parse_args()
    known = [EAGER, COMPILED, *EXPORTED]
    if unknown := set(args.engines or ()) - set(known):
        raise UserError(f"--engines are some of {known}, got {min(unknown)}")
    for name in args.engines or ():
        if needed := missing(name):
            raise UserError(f"{name} needs {', '.join(needed)}, which is not installed")
    start(args, "export")
    versions = {
        name: version(name)
        for name in ("onnxruntime", "openvino", "nncf")
        if is_installed(name)
    }
    made = dict(digits=digits, tiny=tiny)
    with TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        models = [
            measure(args, *made[name](), folder=folder / name) for name in args.models
        ]
    result = dict(
        environment=environment("cpu") | dict(dtype="float32 but for INT8") | versions,
        models=models,
    )
    publish(args, result, render, section="export")


if __name__ == "__main__":
    run_tool(main)
