"""bench_backbone.py: its gate, what models refuse, and what it writes."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from setformer_mm.models import SeTAttention

timm = pytest.importorskip("timm")
import bench_backbone  # noqa: E402  # needs timm
from toolkit.benchmarks import (  # noqa: E402
    backbone_checks,
    backbone_tables,
    backbones,
)

TINY = ("--batch", 2, "--rounds", 1, "--no-memory", "--sizes", 32, "32x64")


def rows_of(text, name):
    """Cells of every row of a model, one row a table."""
    rows = [line.split("|")[1:-1] for line in text.splitlines() if "|" in line]
    return [[c.strip() for c in row[1:]] for row in rows if row[0].strip() == name]


def test_tables_picture_and_figures(run_module, capsys, tmp_path):
    files = {kind: tmp_path / "out" / kind for kind in ("json", "markdown", "plot")}
    flags = [flag for kind, path in files.items() for flag in (f"--{kind}", path)]
    models = ("--models", "setformer_mini", "resnet10t", "--all-backends")
    run_module(bench_backbone, *TINY, *models, *flags)
    out = capsys.readouterr().out
    text = files["markdown"].read_text()
    assert out.endswith(text)
    assert "SeTformer's backends agree" in out
    result = json.loads(files["json"].read_text())
    assert backbone_tables.render(result) + "\n" == text
    settings = [backbones.Setting(**r["setting"]) for r in result["records"]]
    assert list(map(str, settings)) == [
        "32 x 32, batch 2, inference",
        "32 x 32, batch 2, training",
        "32 x 64, batch 1, inference",
        "32 x 64, batch 1, training",
    ]
    assert timm.__version__ in text

    speed, relative = rows_of(text, "setformer_mini (reference)")
    assert speed[0] == "16.7 M"  # as in docs/method.md
    assert all(float(cell) > 0 for cell in speed[1:])
    assert len(relative) == 5
    _, relative = rows_of(text, result["baseline"])
    assert relative[1:] == ["1.00 (1.00 to 1.00)"] * 4
    assert Image.open(files["plot"]).format == "PNG"


def test_memory_of_inference_and_training(run_module, capsys):
    flags = ("--sizes", 32, "--rounds", 1, "--models", "resnet10t")
    run_module(bench_backbone, *flags)
    _, _, (parameters, inference, training) = rows_of(
        capsys.readouterr().out, "resnet10t"
    )
    # A training step makes gradients, and more.
    weights = 4 * float(parameters.removesuffix(" M"))
    assert float(inference) < 0.9 * weights < float(training)


class Fake(nn.Module):
    """A classifier or a pyramid with wishes, and with one parameter."""

    def __init__(self, out=None, features_only=False, num_classes=0, img_size=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.out, self.features_only, self.img_size = out, features_only, img_size

    def forward(self, x):
        if self.out == "mute":
            raise AssertionError
        if self.out == "refuses" or (
            self.out == "asks" and self.img_size != tuple(x.shape[2:])
        ):
            raise AssertionError("what a size\nfor an image")
        height, width = x.shape[2:]
        if self.out == "shapeless":
            height = 3 * height
        value = self.weight / (0 if self.out == "nan" else 1)
        if not self.features_only:
            classes = 10 if self.out == "shapeless" else 1000
            return value.expand(len(x), classes)
        return [
            value.expand(len(x), height // s, width // s, 7) for s in (4, 8, 16, 32)
        ]


@pytest.fixture
def fake(monkeypatch):
    """Put a model of this name into timm: ``fake("nan")``."""

    def fake(out):
        create_model = timm.create_model

        def create(name, **kwargs):
            return Fake(out, **kwargs) if name == out else create_model(name, **kwargs)

        monkeypatch.setattr(timm, "create_model", create)

    return fake


def test_models_are_told_the_size_if_they_ask(run_module, capsys, fake):
    fake("asks")
    run_module(bench_backbone, *TINY, "--models", "asks")
    speed, _ = rows_of(capsys.readouterr().out, "asks")
    assert "" not in speed


@pytest.mark.parametrize(("name", "why"), [("refuses", "what a size"), ("mute", "")])
def test_models_that_refuse_a_size_are_listed(run_module, capsys, fake, name, why):
    fake(name)
    run_module(bench_backbone, *TINY, "--models", name, "resnet10t")
    out = capsys.readouterr().out
    assert rows_of(out, name) == []
    for size in ("32 x 32", "32 x 64"):
        assert f"{name} at {size}: AssertionError: {why}\n" in out


@pytest.mark.parametrize("size", ["32", "32x64"])
@pytest.mark.parametrize(
    ("out", "why"), [("nan", "not finite"), ("shapeless", "its outputs are [(")]
)
def test_nothing_is_measured_if_outputs_are_wrong(refused, fake, size, out, why):
    fake(out)
    message = refused(bench_backbone, "--sizes", size, "--models", "resnet10t", out)
    assert message.startswith(f"error: {out} is wrong at 32 x ")
    assert why in message


def test_nothing_is_measured_if_backends_disagree(refused, monkeypatch):
    """A backend that computes with another epsilon is caught."""

    def use_backend(model, backend):
        for module in model.modules():
            if isinstance(module, SeTAttention):
                module.backend = "reference"
                module.epsilon = 0.1 if backend == "reference" else 0.2

    for module in (backbones, backbone_checks):
        monkeypatch.setattr(module, "use_backend", use_backend)
    monkeypatch.setattr(
        bench_backbone, "backends_on", lambda device: (["quick", "reference"], {})
    )
    message = refused(bench_backbone, *TINY, "--models", "setformer_mini")
    assert message.startswith("error: setformer_mini (quick) is wrong at 32 x 32")
    assert "its outputs differ by" in message


def test_no_speed_of_a_compiled_model_that_is_wrong(run_module, capsys, monkeypatch):
    def compile(model):
        model.fc.bias.data += 1
        return model

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(SystemExit, match="resnet10t, compiled is wrong"):
        run_module(bench_backbone, *TINY, "--models", "resnet10t", "--compile")
    assert "Images a second" not in capsys.readouterr().out


def classifier_setting(training):
    sizes = dict(height=32, width=32, batch=1)
    return backbones.Setting(
        **sizes, dense=False, training=training, device="cpu", bf16=False
    )


def test_wrong_gradients_are_caught(monkeypatch):
    setting = classifier_setting(training=False)
    entry = backbones.Entry("setformer_mini", backend="quick")
    for module in (backbones, backbone_checks):
        monkeypatch.setattr(module, "use_backend", lambda model, backend: None)
    backpropagate = backbones.backpropagate
    calls = []

    def wrong_the_second_time(model, images, setting):
        backpropagate(model, images, setting)
        calls.append(model)
        if len(calls) == 2:
            model.backbone.stages[0].blocks[0].attn.references.grad *= 2

    monkeypatch.setattr(backbone_checks, "backpropagate", wrong_the_second_time)
    with pytest.raises(SystemExit, match="gradients of references differ"):
        backbone_checks.gate(entry, setting)


def test_compiled_models_are_rows_of_their_own():
    args = bench_backbone.argparse.Namespace(
        models=["setformer_tiny", "resnet50"],
        device="cpu",
        all_backends=True,
        compile=True,
    )
    entries, _ = bench_backbone.entries_of(args)
    names = [entry.name for entry in entries]
    assert "setformer_tiny (reference), compiled" in names
    assert names[-1] == "resnet50, compiled"
    assert len(names) == len(set(names))


def test_models_never_skip_branches():
    """Some of timm's models drop paths by default, which is less work."""
    entry = backbones.Entry(backbones.BASELINE)
    model = backbones.build(entry, classifier_setting(training=True))
    drops = [m for m in model.modules() if isinstance(m, timm.layers.DropPath)]
    assert drops and not any(m.drop_prob for m in drops)


@pytest.mark.parametrize("size", ["0", "axb", "224x", "-1"])
def test_senseless_sizes_are_refused(run_module, capsys, size):
    with pytest.raises(SystemExit, match="2"):
        run_module(bench_backbone, f"--sizes={size}")
    assert size in capsys.readouterr().err
