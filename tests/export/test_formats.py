"""Files compute what the model does, at sizes that they were not made with."""

import shutil

import pytest
import torch
from torch import nn

from setformer_mm.export import (
    FORMATS,
    Metadata,
    NotAlikeError,
    Part,
    deployed_part,
    require_alike,
)
from setformer_mm.export import formats as formats_module
from setformer_mm.export.formats import onnx_to_openvino
from setformer_mm.export.int8 import compress_openvino, quantize_onnx
from setformer_mm.utils.installed import is_installed

from .toys import TRACED, classifier, detector, pictures, segmentor

MODELS = dict(classifier=classifier, segmentor=segmentor, detector=detector)


def require(name: str) -> None:
    for module in FORMATS[name].needs:
        pytest.importorskip(module)


def metadata_of(part) -> Metadata:
    return Metadata(part.task, part.outputs, (1.0,) * 3, (2.0,) * 3, "RGB", ("a", "b"))


def linear_layers(part) -> int:
    return sum(isinstance(m, nn.Linear) for m in part.module.modules())


def require_near(name: str, part, path, images) -> None:
    """Check a file of INT8 layers, which are not those of float32."""
    run = FORMATS[name].load(path)
    require_alike(run, part.module, images, 0.1)
    with pytest.raises(NotAlikeError, match="largest difference"):
        require_alike(run, part.module, images, 1e-6)
    assert FORMATS[name].read_metadata(path) == metadata_of(part)


def write(name: str, part, path, dynamic: bool = True) -> None:
    images = torch.randn(TRACED)[: 2 if dynamic else 1]
    FORMATS[name].write(part, images, path, metadata_of(part), dynamic)


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    """Makes each ONNX file once: it takes by far the longest."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}

    def file_of(name: str):
        if name not in made:
            part = deployed_part(MODELS[name](), torch.randn(TRACED))
            path = folder / f"{name}.onnx"
            write("onnx", part, path)
            made[name] = part, path
        return made[name]

    return file_of


@pytest.mark.parametrize(
    "model",
    ["classifier", "segmentor", pytest.param("detector", marks=pytest.mark.slow)],
)
def test_onnx_of_open_sizes(onnx_files, model):
    require("onnx")
    part, path = onnx_files(model)
    run = FORMATS["onnx"].load(path)
    require_alike(run, part.module, pictures(), 1e-4)
    assert FORMATS["onnx"].read_metadata(path) == metadata_of(part)


@pytest.mark.parametrize("model", ["classifier", "segmentor"])
def test_openvino_of_open_sizes(onnx_files, model, tmp_path, monkeypatch):
    require("openvino")
    part, made = onnx_files(model)
    monkeypatch.setattr(
        formats_module, "_write_onnx", lambda p, i, path, m, d: shutil.copy(made, path)
    )
    path = tmp_path / "model.xml"
    write("openvino", part, path)
    assert {p.name for p in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    require_alike(FORMATS["openvino"].load(path), part.module, pictures(), 1e-4)
    assert FORMATS["openvino"].read_metadata(path) == metadata_of(part)
    if is_installed("nncf"):
        assert compress_openvino(path) == linear_layers(part)
        require_near("openvino", part, path, pictures())


@pytest.mark.parametrize("model", ["classifier", "segmentor"])
def test_int8_of_onnx(onnx_files, model, tmp_path):
    """Linear layers alone, the head among them, and not the operator's own products."""
    require("onnx")
    import onnx

    part, made = onnx_files(model)
    path = tmp_path / "int8.onnx"
    shutil.copy(made, path)
    assert quantize_onnx(path) == linear_layers(part)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("MatMulInteger") == linear_layers(part)
    assert "ConvInteger" not in kinds
    # Elsewhere a pair of products overflows on processors without VNNI.
    weights = [
        onnx.numpy_helper.to_array(matrix)
        for matrix in onnx.load(path).graph.initializer
        if matrix.data_type == onnx.TensorProto.INT8 and len(matrix.dims) == 2
    ]
    assert len(weights) == linear_layers(part)
    assert all(abs(int(matrix.min())) <= 64 >= matrix.max() for matrix in weights)
    require_near("onnx", part, path, pictures())
    assert path.stat().st_size < made.stat().st_size


def test_int8_of_one_size_leaves_what_pools_as_it_is(tmp_path):
    """The averages of a size are constants, as weights are."""
    require("onnx")
    part = deployed_part(segmentor(), torch.randn(TRACED))
    path = tmp_path / "model.onnx"
    write("onnx", part, path, dynamic=False)
    if is_installed("openvino") and is_installed("nncf"):
        other = tmp_path / "model.xml"
        onnx_to_openvino(path, other, metadata_of(part))
        assert compress_openvino(other) == linear_layers(part)
    assert quantize_onnx(path) == linear_layers(part)
    require_near("onnx", part, path, [torch.randn(1, *TRACED[1:])])


def test_int8_without_linear_layers_is_refused(tmp_path):
    """ONNX Runtime would take convolutions instead."""
    require("onnx")
    part = Part(nn.Sequential(nn.Conv2d(3, 4, 3)), "features", ("features_0",))
    path = tmp_path / "model.onnx"
    write("onnx", part, path, dynamic=False)
    with pytest.raises(ValueError, match="linear layers, and this model has none"):
        quantize_onnx(path)
    if is_installed("openvino") and is_installed("nncf"):
        other = tmp_path / "model.xml"
        onnx_to_openvino(path, other, metadata_of(part))
        with pytest.raises(ValueError, match="linear layers, and this model has none"):
            compress_openvino(other)


def test_layers_that_are_left_out_are_an_error(tmp_path, monkeypatch):
    require("onnx")
    from onnxruntime import quantization

    def leave_out(model, path, *args, nodes_to_quantize, **kwargs):
        theirs(model, path, *args, nodes_to_quantize=nodes_to_quantize[1:], **kwargs)

    theirs = quantization.quantize_dynamic
    monkeypatch.setattr(quantization, "quantize_dynamic", leave_out)
    part, path = deployed_part(classifier(), torch.randn(TRACED)), tmp_path / "a.onnx"
    write("onnx", part, path, dynamic=False)
    with pytest.raises(ValueError, match="all 9 linear layers .* INT8, and 8 have"):
        quantize_onnx(path)


def test_onnx_of_a_model_that_was_not_deployed_is_refused(tmp_path):
    require("onnx")
    part = deployed_part(classifier(), torch.randn(TRACED))
    part.module.train().eval()
    with pytest.warns(match=r"call the model's switch_to_deploy\(\)"):
        with pytest.raises(torch.onnx.OnnxExporterError):
            write("onnx", part, tmp_path / "model.onnx", dynamic=False)


@pytest.mark.parametrize("model", ["classifier", "detector"])
def test_torch_export_of_open_sizes(model, tmp_path):
    part = deployed_part(MODELS[model](), torch.randn(TRACED))
    path = tmp_path / "model.pt2"
    write("torch-export", part, path)
    run = FORMATS["torch-export"].load(path)
    require_alike(run, part.module, pictures(), 1e-4)
    assert FORMATS["torch-export"].read_metadata(path) == metadata_of(part)


def test_files_of_one_size_refuse_others(tmp_path):
    part = deployed_part(classifier(), torch.randn(TRACED))
    path = tmp_path / "model.pt2"
    write("torch-export", part, path, dynamic=False)
    run = FORMATS["torch-export"].load(path)
    require_alike(run, part.module, [torch.randn(1, *TRACED[1:])], 1e-4)
    with pytest.raises(
        NotAlikeError, match=r"the engine fails for pictures \(1, 3, 40"
    ):
        require_alike(run, part.module, pictures(), 1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["classifier", "segmentor"])
def test_aotinductor_of_open_sizes(model, tmp_path):
    part = deployed_part(MODELS[model](), torch.randn(TRACED))
    path = tmp_path / "model.aoti.pt2"
    write("aoti", part, path)
    require_alike(FORMATS["aoti"].load(path), part.module, pictures(), 1e-4)
    assert FORMATS["aoti"].read_metadata(path) == metadata_of(part)
