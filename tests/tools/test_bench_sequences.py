"""tools/bench_sequences.py: what it measures, and what keeps it from measuring."""

import json
from functools import partial

import pytest

from toolkit.document_sections import marks_of


@pytest.fixture
def run(load_tool, run_module):
    common = "--rounds", 1, "--no-memory", "--threads", 1
    return partial(run_module, load_tool("bench_sequences"), *common)


def test_times_of_all_mixers_at_all_lengths(run, tmp_path, capsys):
    document = tmp_path / "page.md"
    document.write_text("\n".join(marks_of("growth")))
    files = ["--json", tmp_path / "a.json", "--plot", tmp_path / "a.png"]
    run("--lengths", 32, 64, *files, "--document", document)
    result = json.loads((tmp_path / "a.json").read_text())
    assert [(r["length"], r["direction"]) for r in result["records"]] == [
        (32, "forward"),
        (32, "forward and backward"),
        (64, "forward"),
        (64, "forward and backward"),
    ]
    for record in result["records"]:
        assert list(record["times"]) == result["mixers"]
    printed = capsys.readouterr().out
    assert "| tokens | SeT |" in " ".join(printed.split()) and "| 64" in printed
    assert printed.strip() in document.read_text()
    assert (tmp_path / "a.png").exists()


def test_nothing_is_measured_of_what_is_wrong(run, wrong_attention, tmp_path):
    with pytest.raises(SystemExit, match="the encoder with SeT is wrong"):
        run("--lengths", 32, "--json", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_long_calls_are_left_out(run, tmp_path):
    flags = ["--mixers", "softmax", "--longest-call", 0.0]
    run("--lengths", 32, 64, *flags, "--json", tmp_path / "a.json")
    records = json.loads((tmp_path / "a.json").read_text())["records"]
    assert [len(record["times"]) for record in records] == [0, 0, 0, 0]
