"""tools/train_sequences.py: a campaign that goes on, and what it refuses."""

import json
import sys

import pytest

from setformer_mm.utils.errors import UserError
from toolkit.document_sections import marks_of
from toolkit.sequences import grid, tasks


@pytest.fixture
def small(monkeypatch):
    """A task and a model of seconds."""
    task = tasks.listops_task(24, 8, 4, 20, epochs=1, batch_size=6)
    monkeypatch.setitem(tasks.TASKS, "listops-500", task)
    monkeypatch.setitem(grid.MODEL, "hidden_size", 16)


def test_a_campaign_goes_on_where_it_was(tool, small, tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers", "5")
    pytest.importorskip("accelerate")
    monkeypatch.delenv("LOCAL_RANK")  # which says to Trainer that there are several
    document = tmp_path / "page.md"
    document.write_text("\n".join(marks_of("sequences")))
    flags = ["--tasks", "listops-500", "--out", tmp_path, "--data", tmp_path / "data"]
    tool("train_sequences", *flags, "--mixers", "none", "--seeds", "0")
    first = (tmp_path / "listops-500_none_0.json").read_bytes()
    mixers = ["--mixers", "SeT", "none", "--seeds", "0", "1"]
    tool("train_sequences", *flags, *mixers, "--document", document)
    printed = capsys.readouterr().out
    assert "[1/1] listops-500, none, seed 0" in printed
    order = [line for line in printed.splitlines() if "/3] " in line]
    assert [line.split("] ")[1] for line in order] == [
        "listops-500, SeT, seed 0",
        "listops-500, SeT, seed 1",
        "listops-500, none, seed 1",
    ]
    assert (tmp_path / "listops-500_none_0.json").read_bytes() == first
    content = json.loads(first)
    assert 0 <= content["accuracy"] <= 100 and len(content["curve"]) == 3
    assert "**SeT**" in document.read_text() and "none" in document.read_text()
    assert (tmp_path / "accuracy.png").exists()

    content["settings"]["epochs"] = 2
    (tmp_path / "listops-500_none_0.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="none_0.json was trained with other settings"):
        tool("train_sequences", *flags, *mixers)


def test_trainings_need_transformers(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("setformer_mm.utils.installed.find_spec", lambda name: None)
    with pytest.raises(UserError, match="need transformers; run `pip install"):
        tool("train_sequences", "--tasks", "listops-500", "--out", tmp_path)
    assert not [*tmp_path.iterdir()]


def test_tables_need_runs(tool, tmp_path):
    with pytest.raises(UserError, match="there are no runs on sequences in"):
        tool("train_sequences", "--out", tmp_path)
