"""The comparison on sequences: its texts, its files, its tables."""

import dataclasses
import json
from pathlib import Path

import pytest

from setformer_mm.utils.errors import UserError
from toolkit.document_sections import marks_of, write_section
from toolkit.sequences import tasks
from toolkit.sequences.growth import render
from toolkit.sequences.runs import Run, path_of, read_run, read_runs, write_run
from toolkit.sequences.tables import draw, markdown
from toolkit.sequences.tasks import TASKS, listops_task, load_data, numbered

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def small(monkeypatch):
    """A task of a few sequences by the name "listops-500"."""
    task = listops_task(12, 4, 4, 20, epochs=1)
    monkeypatch.setitem(tasks.TASKS, "listops-500", task)
    return task


def run(mixer="SeT", seed=0, accuracy=50.0, **fields) -> Run:
    settings = dict(title="ListOps", train=12, test=4, epochs=1)
    values = dict(
        task="listops-500",
        mixer=mixer,
        seed=seed,
        accuracy=accuracy,
        train_accuracy=60.0,
        majority=12.5,
        curve=[[0.5, 40.0]],
        parameters=1234,
        seconds=1.0,
        settings=settings,
        sources={},
        environment={},
    )
    return Run(**(values | fields))


def test_texts_are_drawn_once(small, tmp_path, monkeypatch):
    drawn = load_data("listops-500", tmp_path)
    assert len(drawn.train) == 12 and len(drawn.test) == 4
    assert not {t for t, _ in drawn.train} & {t for t, _ in drawn.test}
    unable = dataclasses.replace(small, draw=lambda: pytest.fail("drawn again"))
    monkeypatch.setitem(tasks.TASKS, "listops-500", unable)
    assert load_data("listops-500", tmp_path) == drawn
    assert drawn.majority in (0, 25, 50, 75, 100)
    for item in numbered(drawn.train, small):
        assert 0 < min(item["input_ids"]) and max(item["input_ids"]) < small.vocab_size
        assert len(item["input_ids"]) <= small.longest


def test_texts_that_cannot_be_drawn_or_read_end_in_a_sentence(
    small, tmp_path, monkeypatch
):
    few = listops_task(5000, 1, 4, 4, epochs=1)
    monkeypatch.setattr("setformer_mm.data.listops.PATIENCE", 1000)
    monkeypatch.setitem(tasks.TASKS, "listops-500", few)
    with pytest.raises(UserError, match="listops-500 cannot be drawn: 1000 draws"):
        load_data("listops-500", tmp_path)
    for part in ("train", "test"):
        (tmp_path / f"listops-500-{part}.tsv").write_text("Source\tTarget\nno class\n")
    with pytest.raises(UserError, match="does not hold texts and classes; remove it"):
        load_data("listops-500", tmp_path)


def test_bytes_of_a_text():
    assert numbered([("ab", 3)], TASKS["docstrings"]) == [
        dict(input_ids=[97, 98], labels=3)
    ]


def test_runs_are_files(tmp_path):
    write_run(tmp_path, run())
    write_run(tmp_path, run("none", 1))
    assert read_runs(tmp_path) == [run(), run("none", 1)]
    path = path_of(tmp_path, "listops-500", "SeT", 0)
    assert read_run(path) == run()
    path.write_text("{}")
    with pytest.raises(UserError, match="does not hold a run on sequences"):
        read_runs(tmp_path)


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    with pytest.raises(UserError, match="there are no runs on sequences"):
        read_runs(tmp_path)
    write_run(tmp_path, run())
    write_run(tmp_path, run("none", settings=dict(title="ListOps", train=13)))
    with pytest.raises(UserError, match="runs of listops-500 .* different settings"):
        read_runs(tmp_path)


def test_tables_order_by_the_mean_and_tell_chance_from_more(tmp_path):
    runs = [run(seed=s, accuracy=a) for s, a in enumerate((50.0, 51.0, 52.0))]
    runs += [run("none", s, a) for s, a in enumerate((20.0, 21.0, 19.0))]
    runs += [run("softmax", s, a) for s, a in enumerate((53.0, 50.0, 53.0))]
    text = markdown(runs)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "softmax",
        "**SeT**",
        "none",
    ]
    cells = [cell.strip() for cell in rows[-1].split("|")]
    assert cells[3:6] == ["20.0", "1.0", "20.0, 21.0, 19.0"]
    assert cells[-2] == "**-31.0**" and rows[2].split()[-2] == "+1.0"
    assert "the most frequent class alone has 12.5 %" in text
    draw(runs, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_section_of_a_document(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("no marks")
    with pytest.raises(UserError, match="page.md cannot be updated"):
        write_section(document, "sequences", "tables")
    begin, end = marks_of("sequences")
    document.write_text(f"before\n{begin}\nfigures of before\n{end}\nafter\n")
    write_section(document, "sequences", "tables\n")
    assert document.read_text() == f"before\n{begin}\n\ntables\n\n{end}\nafter\n"


def section_of_the_page(name: str) -> str:
    begin, end = marks_of(name)
    text = (ROOT / "docs" / "sequences.md").read_text(encoding="utf-8")
    return text.partition(begin)[2].partition(end)[0].strip("\n")


def test_committed_tables_are_those_of_the_runs():
    folder = ROOT / "docs" / "data" / "sequences"
    expected = "*Not measured yet.*"
    if folder.exists():
        expected = markdown(read_runs(folder)).strip("\n")
    assert section_of_the_page("sequences") == expected


def test_committed_growth_is_that_of_the_measurement():
    path = ROOT / "docs" / "data" / "benchmarks" / "sequences.json"
    expected = "*Not measured yet.*"
    if path.exists():
        expected = render(json.loads(path.read_text(encoding="utf-8")))
    assert section_of_the_page("growth") == expected
