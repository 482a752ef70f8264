"""Write a model for another engine, and check that it computes the same there.

``python tools/export.py CONFIG CHECKPOINT --to onnx --dynamic``

Exported are classifiers and segmentors from normalised pictures to logits, backbone and
neck of detectors, and backbones. The file is written under its name only after the
engine has agreed with PyTorch on pictures of sizes that it was not made with, unless it
is for one size.
"""

import argparse

from toolkit.flags import add_allow_missing


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--to",
        required=True,
        choices=("onnx", "openvino", "aoti", "torch-export"),
        help="format",
    )
    parser.add_argument(
        "--dynamic",
        action="store_true",
        help="pictures of any size and number; otherwise one of one size",
    )
    parser.add_argument(
        "--int8", action="store_true", help="INT8 linear layers (onnx and openvino)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="where to write (<config name>.*)"
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of pictures; with --dynamic, of those that are traced (what the config's "
        "test pipeline makes of the picture)",
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="what to check with (a photograph)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="largest difference as a share of the largest output (1e-3; INT8 0.2)",
    )
    add_allow_missing(parser)
    args = parser.parse_args()
    if args.int8 and args.to not in ("onnx", "openvino"):
        parser.error(f"--int8 is for onnx and openvino, got --to {args.to}")
    if args.size and min(args.size) < 1:
        parser.error("--size is two positive numbers")
    if args.tolerance is None:
        args.tolerance = 0.2 if args.int8 else 1e-3
    if not 0 <= args.tolerance < float("inf"):
        parser.error(f"--tolerance is a number from 0 on, got {args.tolerance}")
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from setformer_mm.export import (
    FORMATS,
    Metadata,
    NotAlikeError,
    Part,
    deployed_part,
    require_alike,
)
from setformer_mm.export.int8 import compress_openvino, quantize_onnx
from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    load_fitting_weights,
    read_checkpoint,
)
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.installed import is_installed
from toolkit.config_checks import require_parts
from toolkit.exported_files import (
    in_another_folder,
    put_in_place,
    require_writable_export,
)
from toolkit.exported_metadata import (
    describe,
    normalised,
    prepared,
    require_true,
    with_fitting_classes,
)
from toolkit.launch import build_model, form_explained, one_line, read_config, run_tool
from toolkit.pictures import read_picture
from toolkit.timing import interleave, quartiles

QUANTISERS = dict(onnx=quantize_onnx, openvino=compress_openvino)
# Of the size that is traced: taller, wider, and one that nothing divides.
OTHER_SIZES = ((1.5, 1.0), (1.0, 1.25), (0.8, 1.3))
ROUNDS = 5


def require_installed(args: argparse.Namespace) -> None:
    """Check what a format and its engine need.

    Raises:
        UserError: naming what is missing.
    """
    needed = list(FORMATS[args.to].needs)
    if args.int8:
        needed += dict(onnx=["onnxruntime"], openvino=["nncf"])[args.to]
    missing = [name for name in needed if not is_installed(name)]
    if not missing:
        return
    what = f"--to {args.to}{' --int8' if args.int8 else ''}"
    of_export = "pip install -r requirements/export.txt"
    how = {"pip install nncf" if name == "nncf" else of_export for name in missing}
    raise UserError(f"{what} needs {', '.join(missing)}; {' and '.join(sorted(how))}")


def batches(
    picture: np.ndarray, metadata: Metadata, size: tuple[int, int], dynamic: bool
) -> tuple[Tensor, list[Tensor]]:
    """What to trace with, and what to check with."""

    def resized(height: float, width: float, count: int = 1) -> Tensor:
        shape = max(1, round(width)), max(1, round(height))
        small = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
        turned = [small, small[:, ::-1], small[::-1]][:count]
        return torch.cat([normalised(p, metadata) for p in turned])

    height, width = size
    if not dynamic:
        upright = resized(height, width)
        return upright, [upright.flip(2, 3)]
    checks = [
        resized(height * tall, width * wide, count)
        for count, (tall, wide) in enumerate(OTHER_SIZES, 1)
    ]
    # A batch of one would be taken for the only one.
    return resized(height, width, 2), checks


def report(args, run, part: Part, checks: list[Tensor], differences: list) -> None:
    """Print differences and times, each size side by side."""
    for images, difference in zip(checks, differences):
        calls = {
            "": lambda x=images: run(x),
            "PyTorch": lambda x=images: part.module(x),
        }
        with torch.inference_mode():
            times = interleave(calls, "cpu", ROUNDS)
        there, here = (1000 * quartiles(times[name])[1] for name in calls)
        print(
            f"  {' x '.join(map(str, images.shape))}: largest difference "
            f"{difference.largest:.1e} of {difference.scale:.3g}; {there:.1f} ms, "
            f"PyTorch {here:.1f} ms"
        )


def main() -> None:
    args = parse_args()
    kind = FORMATS[args.to]
    require_installed(args)
    out = Path(args.out or Path(args.config).stem + kind.suffix)
    require_writable_export(out, kind, "--out")
    cfg = read_config(args.config)
    require_parts(cfg, ("model", "test_dataloader"))
    load_checkpoints_safely()
    checkpoint = read_checkpoint(args.checkpoint)
    model = build_model(cfg)
    load_fitting_weights(model, args.checkpoint, args.allow_missing, checkpoint)
    if args.picture:
        picture = read_picture(args.picture)
    else:
        from skimage.data import astronaut

        picture = astronaut()[..., ::-1]

    with form_explained(cfg):
        size = tuple(args.size or prepared(cfg, model, picture).shape[2:])
    try:
        part = deployed_part(model, torch.zeros(1, 3, *size))
    except Exception as error:  # of any type: it is a pass through the model
        raise UserError(
            f"the model of {args.config} cannot be exported for pictures "
            f"(1, 3, {size[0]}, {size[1]}): {one_line(error)}"
        ) from error
    with form_explained(cfg):
        metadata = describe(cfg, checkpoint, part)
        require_true(metadata, cfg, model)
    traced, checks = batches(picture, metadata, size, args.dynamic)
    with torch.inference_mode():
        metadata = with_fitting_classes(metadata, part.module(traced)[0])
    metadata = replace(
        metadata,
        sizes="open" if args.dynamic else "x".join(map(str, traced.shape)),
        precision="int8" if args.int8 else "float32",
    )
    with in_another_folder(out) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters warn of their own ways
        try:
            kind.write(part, traced, path, metadata, args.dynamic)
            if args.int8:
                layers = QUANTISERS[args.to](path)
                print(f"INT8: {layers} linear layers")
            run = kind.load(path)
        except Exception as error:  # of any type: exporters have their own
            raise UserError(
                f"the export to {kind.title} failed: {one_line(error)}; "
                "SETFORMER_MM_TRACEBACK=1 shows where"
            ) from error
        try:
            differences = require_alike(run, part.module, checks, args.tolerance)
        except NotAlikeError as error:
            raise UserError(f"{out} was not written: {error}") from error
        written = put_in_place(path, out, kind)
        shape = "any size" if args.dynamic else "one size"
        print(f"{out}: {kind.title}, {metadata.task}, {shape}, {written / 1e6:.2f} MB")
        report(args, run, part, checks, differences)


if __name__ == "__main__":
    run_tool(main)
