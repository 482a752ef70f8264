"""tools/export.py: a file is there once its engine agrees, and not before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from setformer_mm.export import FORMATS, Metadata
from setformer_mm.utils.errors import UserError

DIGITS = Path(__file__).resolve().parents[2] / "configs" / "digits"


@pytest.fixture
def export(tool, tmp_path, monkeypatch):
    """Export a model of digits for one size, into the test's folder; its config may
    have more lines.
    """
    monkeypatch.chdir(tmp_path)

    def export(name: str, *flags: object, lines: str = "") -> None:
        checkpoint = DIGITS / "checkpoints" / f"{name}.pth"
        config = DIGITS / f"{name}.py"
        if lines:
            text = f"_base_ = {str(config)!r}\n{lines}\n"
            config = tmp_path / "configs" / "mine.py"
            config.parent.mkdir(exist_ok=True)
            config.write_text(text)
        tool("export", config, checkpoint, *flags)

    return export


def read_metadata(path: str) -> Metadata:
    return FORMATS["torch-export"].read_metadata(Path(path))


def test_a_file_with_all_that_serving_needs(export, capsys):
    export("setformer_digits", "--to", "torch-export")
    assert [p.name for p in Path().iterdir()] == ["setformer_digits.pt2"]
    kind = FORMATS["torch-export"]
    metadata = kind.read_metadata(Path("setformer_digits.pt2"))
    cfg = Config.fromfile(DIGITS / "setformer_digits.py")
    assert metadata == Metadata(
        task="classification",
        outputs=("logits",),
        mean=tuple(cfg.model.data_preprocessor.mean),
        std=tuple(cfg.model.data_preprocessor.std),
        channel_order="RGB",
        classes=tuple("0123456789"),
        sizes="1x3x64x64",
    )
    run = kind.load(Path("setformer_digits.pt2"))
    assert run(torch.zeros(1, 3, 64, 64))[0].shape == (1, 10)
    said = capsys.readouterr().out
    assert "1 x 3 x 64 x 64: largest difference" in said and "PyTorch" in said


def test_what_is_not_alike_is_not_written(export, wrong_engine):
    Path("mine.pt2").write_text("an older file")
    with pytest.raises(UserError, match=r"mine.pt2 was not written: the largest diff"):
        export("setformer_digits", "--to", "torch-export", "--out", "mine.pt2")
    assert [p.name for p in Path().iterdir()] == ["mine.pt2"]
    assert Path("mine.pt2").read_text() == "an older file"


NORMALISING = """
model = dict(data_preprocessor=dict(_delete_=True, {flags}))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=64),
    dict(type="CenterCrop", crop_size=64),
    dict(type="Normalize", mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True),
    dict(type="PackInputs"),
]))
"""


def test_normalisation_in_the_pipeline_is_told(export):
    lines = NORMALISING.format(flags="")
    export("setformer_digits", "--to", "torch-export", lines=lines)
    metadata = read_metadata("mine.pt2")
    assert metadata.mean == (1, 2, 3) and metadata.std == (4, 5, 6)
    assert metadata.channel_order == "RGB"


def test_normalisation_beside_the_model_is_told(export):
    """Where mmpretrain's own configs have it."""
    lines = """
data_preprocessor = dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], to_rgb=True)
model = dict(
    _delete_=True,
    type="ImageClassifier",
    backbone=_base_.model.backbone,
    neck=_base_.model.neck,
    head=_base_.model.head,
)
"""
    export("setformer_digits", "--to", "torch-export", lines=lines)
    assert read_metadata("mine.pt2").mean == (1, 2, 3)


def test_false_normalisation_is_refused(export):
    lines = NORMALISING.format(flags="mean=[5.0, 6.0, 7.0], std=[1.0, 1.0, 1.0]")
    with pytest.raises(UserError, match=r"must be those of one .* \(20, 90, 200\) the"):
        export("setformer_digits", "--to", "torch-export", lines=lines)
    assert not Path("mine.pt2").exists()


def test_names_of_other_classes_are_left_out(export, capsys):
    lines = "test_dataloader = dict(dataset=dict(metainfo=dict(classes=['a', 'b'])))"
    export("setformer_digits", "--to", "torch-export", lines=lines)
    assert read_metadata("mine.pt2").classes == ()
    assert "names 2 classes, and there are 10 logits" in capsys.readouterr().err


def test_a_backbone_alone(export):
    lines = "model = dict(**_base_.model.backbone, _delete_=True)"
    flags = ["--to", "torch-export", "--allow-missing"]
    export("setformer_digits", *flags, lines=lines)
    metadata = read_metadata("mine.pt2")
    assert metadata.task == "features" and metadata.sizes == "1x3x64x64"
    assert metadata.mean == (0, 0, 0) and metadata.std == (1, 1, 1)


@pytest.mark.parametrize(
    "lines, message",
    [
        ("model = dict(type='Nothing')", "the model cannot be built .*Nothing"),
        ("test_dataloader = dict(_delete_=True)", "not of the form .* 'dataset'"),
        (
            "test_dataloader = dict(dataset=dict(_delete_=True, type='CustomDataset'))",
            "not of the form .* 'pipeline'",
        ),
        (
            "model = dict(data_preprocessor=dict(mean=1.0))",
            "not of the form .* 'float'",
        ),
        ("model = dict(backbone=dict(in_channels=1))", "does not fit the model"),
        ("model = dict(neck=None)", "of .*mine.py cannot be exported for .* 64, 64"),
    ],
)
def test_configs_that_cannot_be_exported(export, lines, message):
    with pytest.raises(UserError, match=message):
        export("setformer_digits", "--to", "torch-export", lines=lines)


def test_files_of_others_stay(export, monkeypatch):
    monkeypatch.setitem(FORMATS, "openvino", FORMATS["openvino"]._replace(needs=()))
    Path("pytorch_model.bin").write_text("weights")
    Path("folder.bin").mkdir()
    for name, message in (
        ("pytorch_model", "would overwrite pytorch_model.bin, which is of no export"),
        ("folder", "--out names a file, and folder.bin is a folder"),
        ("", "--out names a file NAME.xml for OpenVINO, got .xml"),
    ):
        with pytest.raises(UserError, match=message):
            export("setformer_digits", "--to", "openvino", "--out", f"{name}.xml")
    assert Path("pytorch_model.bin").read_text() == "weights"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name, to",
    [
        ("setformer_digits", "onnx"),
        ("upernet_setformer_digits", "openvino"),
        ("mask_rcnn_setformer_digits", "onnx"),
    ],
)
def test_open_sizes(export, capsys, name, to):
    for module in FORMATS[to].needs:
        pytest.importorskip(module)
    noise = np.random.randint(0, 256, (90, 70, 3)).astype(np.uint8)
    Image.fromarray(noise).save("noise.png")
    export(name, "--to", to, "--dynamic", "--picture", "noise.png")
    assert capsys.readouterr().out.count("largest difference") == 3
    assert Path(f"{name}{FORMATS[to].suffix}").is_file()


def test_mistakes(export, monkeypatch, capsys):
    for flags in (
        ["--to", "aoti", "--int8"],
        ["--to", "onnx", "--size", "0", "5"],
        ["--to", "tflite"],
        ["--to", "onnx", "--tolerance", "nan"],
        ["--to", "onnx", "--tolerance", "-1"],
    ):
        with pytest.raises(SystemExit):
            export("setformer_digits", *flags)
    said = capsys.readouterr().err
    assert "--int8 is for onnx and openvino" in said
    assert "--tolerance is a number from 0 on, got nan" in said
    with pytest.raises(UserError, match=r"names a file NAME.onnx for ONNX, got x.pb"):
        monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(needs=()))
        export("setformer_digits", "--to", "onnx", "--out", "x.pb")
    missing = FORMATS["onnx"]._replace(needs=("onnx", "no_such_module"))
    monkeypatch.setitem(FORMATS, "onnx", missing)
    with pytest.raises(
        UserError, match="needs .*no_such_module; pip install -r requirements/"
    ):
        export("setformer_digits", "--to", "onnx")
