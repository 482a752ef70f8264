"""tools/bench_quantization.py: what it measures, and what keeps it from measuring."""

import json
from pathlib import Path

import pytest
from digit_pictures import normalised_digits

from setformer_mm.utils.errors import UserError
from toolkit.benchmarks.quantization_tables import render
from toolkit.document_sections import marks_of
from toolkit.quantisers import QUANTISERS

pytest.importorskip("torchao")
COUNT = 40
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def run(load_tool, run_module, monkeypatch):
    """Run it on scikit-learn's digits, without what takes minutes to compile."""
    module = load_tool("bench_quantization")

    def load_test_set(cfg, model):
        return normalised_digits(COUNT, model)

    monkeypatch.setattr(module, "load_test_set", load_test_set)
    monkeypatch.setattr(module, "require_data", lambda *_: None)
    flags = ["--rounds", 1, "--threads", 1, "--no-compile", "--batches", 16, 1]
    return lambda *more: run_module(module, *flags, *more)


def test_accuracy_size_and_time(run, tmp_path, capsys):
    document, file = tmp_path / "page.md", tmp_path / "a.json"
    document.write_text("\n".join(marks_of("quantization")))
    run("--json", file, "--document", document)
    float32, bfloat16, *quantised = json.loads(file.read_text())["records"]
    assert float32["error"] == float32["other_answers"] == 0
    assert float32["accuracy"] > 80  # these digits are not those of the training
    assert bfloat16["error"] > 0 and bfloat16["bytes"] == float32["bytes"]
    assert [r["precision"] for r in quantised] == [f"INT8, {n}" for n in QUANTISERS]
    for record in quantised:
        assert 0 < record["error"] < 0.1
        assert record["bytes"] < 0.6 * float32["bytes"]
        assert abs(record["accuracy"] - float32["accuracy"]) <= 5
        assert [len(times) for times in record["times"].values()] == [1, 1]
    printed = capsys.readouterr().out
    assert "1 picture, ms" in printed and printed.strip() in document.read_text()


@pytest.mark.parametrize(
    "quantise, error",
    [
        (lambda model: model, "quantised 0 of 25 linear layers"),
        (lambda model: doubled(QUANTISERS["torch.ao, dynamic"](model)), "is wrong"),
    ],
)
def test_nothing_is_measured_of_what_is_wrong(
    run, quantise, error, monkeypatch, tmp_path
):
    monkeypatch.setitem(QUANTISERS, "torchao, dynamic", quantise)
    with pytest.raises(UserError, match=error):
        run("--json", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def doubled(model):
    model.head.register_forward_hook(lambda module, args, out: 2 * out)
    return model


def test_its_flags(run, capsys):
    with pytest.raises(SystemExit):
        run("--rounds", 0)
    assert "--rounds: must be a positive integer, got 0" in capsys.readouterr().err


def test_the_committed_table_is_that_of_the_measurement():
    file = DOCS / "data" / "benchmarks" / "quantization.json"
    begin, end = marks_of("quantization")
    page = (DOCS / "quantization.md").read_text(encoding="utf-8")
    section = page.partition(begin)[2].partition(end)[0].strip("\n")
    assert section == render(json.loads(file.read_text(encoding="utf-8")))
