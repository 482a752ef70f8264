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
    """Export a model of digits for one size, into the test's folder."""
    monkeypatch.chdir(tmp_path)

    def export(name: str, *flags: object) -> None:
        checkpoint = DIGITS / "checkpoints" / f"{name}.pth"
        tool("export", DIGITS / f"{name}.py", checkpoint, *flags)

    return export


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
        classes=metadata.classes,
        sizes="1x3x64x64",
    )
    assert len(metadata.classes) in (0, 10)
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
    ):
        with pytest.raises(SystemExit):
            export("setformer_digits", *flags)
    assert "--int8 is for onnx and openvino" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"names a file .onnx for ONNX, got x.pb"):
        monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(needs=()))
        export("setformer_digits", "--to", "onnx", "--out", "x.pb")
    missing = FORMATS["onnx"]._replace(needs=("onnx", "no_such_module"))
    monkeypatch.setitem(FORMATS, "onnx", missing)
    with pytest.raises(
        UserError, match="needs .*no_such_module; pip install -r requirements/"
    ):
        export("setformer_digits", "--to", "onnx")
