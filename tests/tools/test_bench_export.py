"""tools/bench_export.py: what it measures, and what keeps it from measuring."""

import json

import pytest
from digit_pictures import normalised_digits

from setformer_mm.export import FORMATS
from setformer_mm.utils.errors import UserError
from toolkit.document_sections import marks_of

COUNT = 20


@pytest.fixture
def run(load_tool, run_module, monkeypatch):
    """Run it on scikit-learn's digits, with the format that is made soonest."""
    module = load_tool("bench_export")

    def load_test_set(cfg, model):
        return normalised_digits(COUNT, model)

    monkeypatch.setattr(module, "load_test_set", load_test_set)
    monkeypatch.setattr(module, "require_data", lambda *_: None)
    monkeypatch.setattr(module, "EXPORTED", {"torch.export": ("torch-export", None)})
    flags = ["--rounds", 2, "--threads", 1, "--models", "digits"]
    flags += ["--engines", "PyTorch", "torch.export"]
    return lambda *more: run_module(module, *flags, *more)


def test_differences_answers_and_times(run, tmp_path, capsys):
    document, file = tmp_path / "page.md", tmp_path / "a.json"
    document.write_text("\n".join(marks_of("export")))
    run("--json", file, "--document", document, "--folder", tmp_path)
    (model,) = json.loads(file.read_text())["models"]
    eager, exported = model["records"]
    assert eager["difference"] == eager["other_answers"] == 0
    assert exported["other_answers"] == 0 and exported["difference"] < 1e-4
    assert eager["accuracy"] == exported["accuracy"] > 70
    made = tmp_path / "digits" / "float32.pt2"
    assert eager["bytes"] is None and exported["bytes"] == made.stat().st_size
    assert [len(record["times"]) for record in (eager, exported)] == [2, 2]
    printed = capsys.readouterr().out
    assert "| torch.export" in printed and printed.strip() in document.read_text()


def test_nothing_is_measured_if_an_engine_is_wrong(run, wrong_engine):
    with pytest.raises(UserError, match=r"torch.export is wrong: .*was measured"):
        run()


def test_unknown_and_missing_engines(run, monkeypatch):
    with pytest.raises(UserError, match="--engines are some of .*, got TensorRT"):
        run("--engines", "TensorRT")
    missing = FORMATS["torch-export"]._replace(needs=("no_such_module",))
    monkeypatch.setitem(FORMATS, "torch-export", missing)
    with pytest.raises(UserError, match="torch.export needs no_such_module, which is"):
        run("--engines", "torch.export")


def test_nothing_half_written_is_kept(run, tmp_path, monkeypatch):
    def write(part, images, path, *_):
        path.write_text("half of it")
        raise KeyboardInterrupt

    broken = FORMATS["torch-export"]._replace(write=write)
    monkeypatch.setitem(FORMATS, "torch-export", broken)
    with pytest.raises(KeyboardInterrupt):
        run("--folder", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
