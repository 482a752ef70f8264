"""The formats: how a part of a model is written, and read by its engine."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .checking import Run
from .metadata import Metadata
from .parts import Part

INPUT = "images"
# Where metadata stand among those of others.
SECTION = "setformer_mm"
# Sizes that stay open, by dimension of the input.
OPEN_SIZES = {0: "batch", 2: "height", 3: "width"}


class Format(NamedTuple):
    """A format and its engine.

    Attributes:
        title (str): What it is called.
        suffix (str): Of its files.
        needs (tuple[str, ...]): Modules that have to be installed.
        write (Callable): ``write(part, images, path, metadata, dynamic)``: images of
            the one size, or of any if sizes are to stay open.
        load (Callable): ``load(path)`` returns how to run it on pictures.
        read_metadata (Callable): ``read_metadata(path)`` returns what was written.
        companions (tuple[str, ...]): Suffixes of files beside it, of the same stem.
    """

    title: str
    suffix: str
    needs: tuple[str, ...]
    write: Callable[[Part, Tensor, Path, Metadata, bool], None]
    load: Callable[[Path], Run]
    read_metadata: Callable[[Path], Metadata]
    companions: tuple[str, ...] = ()


def _write_onnx(
    part: Part, images: Tensor, path: Path, metadata: Metadata, dynamic: bool
) -> None:
    with redirect_stdout(io.StringIO()):  # it reports steps whatever it is told
        program = torch.onnx.export(
            part.module,
            (images,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(part.outputs),
            dynamic_shapes=(OPEN_SIZES,) if dynamic else None,
            verbose=False,
        )
    program.model.metadata_props.update(metadata.as_strings())
    program.save(path, external_data=False)


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outs = session.run(None, {INPUT: images.numpy()})
        return tuple(map(torch.from_numpy, outs))

    return run


def _read_onnx_metadata(path: Path) -> Metadata:
    import onnx

    model = onnx.load(path)
    return Metadata.from_strings({p.key: p.value for p in model.metadata_props})


def _write_openvino(
    part: Part, images: Tensor, path: Path, metadata: Metadata, dynamic: bool
) -> None:
    through = path.with_suffix(".onnx")
    _write_onnx(part, images, through, metadata, dynamic)
    onnx_to_openvino(through, path, metadata)
    through.unlink()


def onnx_to_openvino(source: Path, path: Path, metadata: Metadata) -> None:
    """Write an ONNX file of a model as OpenVINO has it, in float32.

    Args:
        source (Path): The ONNX file.
        path (Path): The ``.xml`` file to write; a ``.bin`` comes beside it.
        metadata (Metadata): Of the model.
    """
    import openvino

    model = openvino.convert_model(source)
    for name, value in metadata.as_strings().items():
        model.set_rt_info(value, [SECTION, name])
    openvino.save_model(model, path, compress_to_fp16=False)


def _load_openvino(path: Path) -> Run:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    model = openvino.Core().compile_model(path, "CPU", settings)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outs = model([images.numpy()])
        return tuple(torch.from_numpy(outs[o].copy()) for o in model.outputs)

    return run


def _read_openvino_metadata(path: Path) -> Metadata:
    import openvino

    model = openvino.Core().read_model(path)
    is_ours = model.has_rt_info([SECTION])
    return Metadata.from_strings(model.get_rt_info([SECTION]).value if is_ours else {})


def _captured(
    part: Part, images: Tensor, dynamic: bool
) -> torch.export.ExportedProgram:
    """The part as a graph of torch's operators and the compiled one."""
    sizes = {
        0: torch.export.Dim.AUTO,
        2: torch.export.Dim.DYNAMIC,
        3: torch.export.Dim.DYNAMIC,
    }
    with torch.no_grad():
        return torch.export.export(
            part.module,
            (images,),
            dynamic_shapes=(sizes,) if dynamic else None,
            strict=False,
        )


def _write_torch_export(
    part: Part, images: Tensor, path: Path, metadata: Metadata, dynamic: bool
) -> None:
    program = _captured(part, images, dynamic)
    extra = {f"{SECTION}.json": json.dumps(metadata.as_strings(), allow_nan=False)}
    torch.export.save(program, path, extra_files=extra)


def _load_torch_export(path: Path) -> Run:
    return torch.export.load(path).module()


def _read_torch_export_metadata(path: Path) -> Metadata:
    extra = {f"{SECTION}.json": ""}
    torch.export.load(path, extra_files=extra)
    return Metadata.from_strings(json.loads(extra[f"{SECTION}.json"] or "{}"))


def _write_aoti(
    part: Part, images: Tensor, path: Path, metadata: Metadata, dynamic: bool
) -> None:
    torch._inductor.aoti_compile_and_package(
        _captured(part, images, dynamic),
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": metadata.as_strings()},
    )


def _load_aoti(path: Path) -> Run:
    model = torch._inductor.aoti_load_package(str(path))
    return lambda images: tuple(model(images))


def _read_aoti_metadata(path: Path) -> Metadata:
    model = torch._inductor.aoti_load_package(str(path))
    return Metadata.from_strings(model.get_metadata())


FORMATS: dict[str, Format] = {
    "onnx": Format(
        "ONNX",
        ".onnx",
        ("onnx", "onnxscript", "onnxruntime"),
        _write_onnx,
        _load_onnx,
        _read_onnx_metadata,
    ),
    "openvino": Format(
        "OpenVINO",
        ".xml",
        ("onnx", "onnxscript", "openvino"),
        _write_openvino,
        _load_openvino,
        _read_openvino_metadata,
        companions=(".bin",),
    ),
    "aoti": Format(
        "AOTInductor",
        ".aoti.pt2",
        (),
        _write_aoti,
        _load_aoti,
        _read_aoti_metadata,
    ),
    "torch-export": Format(
        "torch.export",
        ".pt2",
        (),
        _write_torch_export,
        _load_torch_export,
        _read_torch_export_metadata,
    ),
}
