"""README.md and docs/benchmarks.md say what the committed results say."""

import json
import re
import shutil

import pytest

pytest.importorskip("timm")
import bench_backbone  # noqa: E402  # needs timm
import bench_op  # noqa: E402
import publish_benchmarks  # noqa: E402
from publish_benchmarks import (  # noqa: E402
    BEGIN,
    BENCHMARKS,
    DOCUMENT,
    END,
    HEADLINE,
    IMAGES,
    OTHER,
    README,
    RESULTS,
    ROOT,
)
from setformer_mm.utils.errors import UserError  # noqa: E402
from toolkit.benchmarks import headline, operator_tables  # noqa: E402

DOCUMENTS = README, DOCUMENT


@pytest.fixture
def results(run_module, monkeypatch, tmp_path, capsys):
    """Small results of all benchmarks, in a folder."""
    flags = ("--rounds", 1, "--no-memory", "--json")
    for module in (bench_op, operator_tables, headline):
        monkeypatch.setattr(module, "STAGES", ((6, 2, 2),))
    names = ("--contenders", "reference", "SDPA", "--tokens", 4, 49, "--batch", 1)
    run_module(bench_op, *names, *flags, tmp_path / "op.json")
    names = ("--models", "resnet10t", "--sizes", 32)
    run_module(bench_backbone, *names, *flags, tmp_path / "backbone.json")
    flags = ("--bf16", *flags)
    run_module(
        bench_backbone,
        *names,
        *flags,
        tmp_path / "backbone_bf16.json",
    )
    capsys.readouterr()
    set_processor(tmp_path, "Abacus")
    return tmp_path


def set_processor(folder, name: str) -> None:
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        result["environment"]["device"] = name
        path.write_text(json.dumps(result))


def ignore_folders(folder, names):
    return [name for name in names if not name.endswith(".json")]


@pytest.fixture
def root(monkeypatch, tmp_path, results):
    """Documents with old figures, in a folder that the script takes for its own."""
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    sections_of = {README: [HEADLINE], DOCUMENT: [*BENCHMARKS, OTHER]}
    for document, names in sections_of.items():
        sections = "\n".join(
            f"{BEGIN.format(name)}\nold figures\n{END.format(name)}" for name in names
        )
        (root / document).write_text(f"# Title\n{sections}\nLicence\n")
    # Figures of this small run, as if they had been measured on two processors.
    shutil.copytree(results, root / RESULTS / OTHER, ignore=ignore_folders)
    set_processor(root / RESULTS / OTHER, "Slide rule")
    monkeypatch.setattr(publish_benchmarks, "ROOT", root)
    return root


def test_sections_take_the_place_of_the_former_ones(run_module, results, root):
    run_module(publish_benchmarks, results)
    readme, document = texts = [(root / name).read_text() for name in DOCUMENTS]
    for text in texts:
        assert text.startswith("# Title\n") and text.endswith("\nLicence\n")
        assert "old figures" not in text
        assert "resnet10t" in text
    (sentence,) = re.findall(r"fused softmax attention of torch takes .*?\.\s", readme)
    assert "times as long with 36 tokens" in sentence
    assert "| stage 1, forward " in document
    assert "1 x 49 tokens, 2 heads" in document
    assert "1 x 49 tokens, 2 heads" not in readme
    assert (root / IMAGES / f"bench_{HEADLINE}.png").exists()
    for name in BENCHMARKS:
        assert (root / IMAGES / f"bench_{name}.png").exists()
        kept = json.loads((root / RESULTS / f"{name}.json").read_text())
        assert kept == json.loads((results / f"{name}.json").read_text())
    run_module(publish_benchmarks, results)
    assert [(root / name).read_text() for name in DOCUMENTS] == texts


def test_another_processor_stands_beside_the_first_one(
    run_module, results, root, tmp_path, capsys
):
    run_module(publish_benchmarks, results)
    before = {path.name: path.read_bytes() for path in (root / RESULTS).glob("*.json")}
    pictures = {path: path.stat().st_mtime_ns for path in (root / IMAGES).iterdir()}
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(results, elsewhere, ignore=ignore_folders)
    set_processor(elsewhere, "Quipu")
    capsys.readouterr()
    run_module(publish_benchmarks, elsewhere, "--other")
    assert (
        capsys.readouterr().out == f"Written: {README}, {DOCUMENT}, {RESULTS / OTHER}\n"
    )
    readme, document = ((root / name).read_text() for name in DOCUMENTS)
    (sentence,) = re.findall(r"On another processor, .*?\.$", readme, re.MULTILINE)
    assert sentence == (
        "On another processor, Quipu, resnet10t has 1.00, 1.00 in these columns."
    )
    first, other = document.split("begin other")
    assert "Abacus" in first and "Quipu" not in first
    assert other.count("Quipu") == len(BENCHMARKS)
    after = {path.name: path.read_bytes() for path in (root / RESULTS).glob("*.json")}
    assert after == before
    assert pictures == {p: p.stat().st_mtime_ns for p in (root / IMAGES).iterdir()}
    for name in BENCHMARKS:
        kept = (root / RESULTS / OTHER / f"{name}.json").read_bytes()
        assert kept == (elsewhere / f"{name}.json").read_bytes()


def test_figures_that_cannot_stand_side_by_side(run_module, results, root):
    with pytest.raises(UserError, match="op.json does not exist; `make bench`"):
        run_module(publish_benchmarks, root)
    run_module(publish_benchmarks, results)
    before = {file: file.read_bytes() for file in root.rglob("*.*")}
    with pytest.raises(UserError, match="would be of Abacus"):
        run_module(publish_benchmarks, results, "--other")
    backbone = json.loads((results / "backbone.json").read_text())
    backbone["records"].pop()
    (results / "backbone.json").write_text(json.dumps(backbone))
    with pytest.raises(UserError, match="of the same settings"):
        run_module(publish_benchmarks, results)
    assert {file: file.read_bytes() for file in root.rglob("*.*")} == before


@pytest.mark.parametrize(("name", "section"), [(README, HEADLINE), (DOCUMENT, "op")])
def test_nothing_is_written_if_a_mark_is_missing(
    run_module, results, root, name, section
):
    path = root / name
    path.write_text(path.read_text().replace(END.format(section), ""))
    before = {file: file.read_bytes() for file in root.rglob("*.*")}
    with pytest.raises(ValueError, match=f"end {section}"):
        run_module(publish_benchmarks, results)
    assert {file: file.read_bytes() for file in root.rglob("*.*")} == before


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_up_to_date(name):
    updated = publish_benchmarks.updated_documents(
        publish_benchmarks.read_results(ROOT / RESULTS),
        publish_benchmarks.read_results(ROOT / RESULTS / OTHER),
    )
    assert (ROOT / name).read_text("utf-8") == updated[name]


def test_documents_show_the_pictures():
    pictures = {f"docs/images/bench_{HEADLINE}.png": README}
    pictures |= {f"images/bench_{name}.png": DOCUMENT for name in BENCHMARKS}
    for picture, document in pictures.items():
        assert f"]({picture})" in (ROOT / document).read_text("utf-8")
        assert ((ROOT / document).parent / picture).exists()
