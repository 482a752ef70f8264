"""README.md and docs/benchmarks.md say what the committed results say."""

import json

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
    IMAGES,
    README,
    RESULTS,
    ROOT,
)
from toolkit.benchmarks import operator_tables  # noqa: E402

DOCUMENTS = README, DOCUMENT


@pytest.fixture
def results(run_module, monkeypatch, tmp_path, capsys):
    """Small results of all benchmarks, in a folder."""
    flags = ("--rounds", 1, "--no-memory", "--json")
    for module in (bench_op, operator_tables):
        monkeypatch.setattr(module, "STAGES", ((6, 2, 2),))
    names = ("--contenders", "reference", "eager", "--tokens", 4, 49, "--batch", 1)
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
    return tmp_path


@pytest.fixture
def root(monkeypatch, tmp_path):
    """Documents with old figures, in a folder that the script takes for its own."""
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    sections = "\n".join(
        f"{BEGIN.format(name)}\nold figures\n{END.format(name)}" for name in BENCHMARKS
    )
    for name in DOCUMENTS:
        (root / name).write_text(f"# Title\n{sections}\nLicence\n")
    monkeypatch.setattr(publish_benchmarks, "ROOT", root)
    return root


def test_sections_take_the_place_of_the_former_ones(run_module, results, root):
    run_module(publish_benchmarks, results)
    readme, document = texts = [(root / name).read_text() for name in DOCUMENTS]
    for text in texts:
        assert text.startswith("# Title\n") and text.endswith("\nLicence\n")
        assert "old figures" not in text
        assert "resnet10t" in text
        assert "| stage 1, forward " in text
    assert "1 x 49 tokens, 2 heads" in document
    assert "1 x 49 tokens, 2 heads" not in readme
    for name in BENCHMARKS:
        assert (root / IMAGES / f"bench_{name}.png").exists()
        kept = json.loads((root / RESULTS / f"{name}.json").read_text())
        assert kept == json.loads((results / f"{name}.json").read_text())
    run_module(publish_benchmarks, results)
    assert [(root / name).read_text() for name in DOCUMENTS] == texts


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_written_if_a_mark_is_missing(run_module, root, name):
    path = root / name
    path.write_text(path.read_text().replace(END.format("backbone"), ""))
    before = {file: file.read_bytes() for file in root.rglob("*.*")}
    with pytest.raises(ValueError, match="end backbone"):
        run_module(publish_benchmarks, ROOT / RESULTS)
    assert {file: file.read_bytes() for file in root.rglob("*.*")} == before


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_up_to_date(name):
    updated = publish_benchmarks.updated_documents(
        publish_benchmarks.read_results(ROOT / RESULTS)
    )
    assert (ROOT / name).read_text("utf-8") == updated[name]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_readme_shows_the_pictures(name):
    picture = IMAGES / f"bench_{name}.png"
    assert f"]({picture})" in (ROOT / README).read_text("utf-8")
    assert (ROOT / picture).exists()
