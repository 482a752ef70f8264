"""README.md says what the committed results say."""

import json

import pytest

pytest.importorskip("timm")
import update_readme  # noqa: E402  # needs timm

from setformer_mm.utils.files import replace_section  # noqa: E402


@pytest.fixture
def results(run, tmp_path, capsys):
    """Small results of both benchmarks, in a folder."""
    flags = ("--rounds", 1, "--no-memory", "--json")
    names = ("--contenders", "reference", "eager", "--tokens", 4, 49, "--batch", 0)
    run(update_readme.bench_op, *names, *flags, tmp_path / "op.json")
    names = ("--models", "resnet10t", "--sizes", 32)
    run(update_readme.bench_backbone, *names, *flags, tmp_path / "backbone.json")
    capsys.readouterr()
    return tmp_path


def test_section_takes_the_place_of_the_former_one(
    run, results, monkeypatch, tmp_path, capsys
):
    root = tmp_path / "root"
    (root / "benchmarks").mkdir(parents=True)
    readme = root / "README.md"
    begin, end = update_readme.BEGIN, update_readme.END
    readme.write_text(f"# Title\n{begin}\nold figures\n{end}\nLicence\n")
    monkeypatch.setattr(update_readme, "ROOT", root)
    run(update_readme, results)
    text = readme.read_text()
    assert text.startswith(f"# Title\n{begin}\n") and text.endswith(f"{end}\nLicence\n")
    assert "old figures" not in text
    assert "1 x 49 tokens, 2 heads" in text and "resnet10t" in text
    for name in ("op", "backbone"):
        picture = f"docs/images/bench_{name}.png"
        assert f"]({picture})" in text and (root / picture).exists()
        kept = json.loads((root / "benchmarks/results" / f"{name}.json").read_text())
        assert kept == json.loads((results / f"{name}.json").read_text())
    run(update_readme, results)
    assert readme.read_text() == text


def test_readme_is_up_to_date():
    folder = update_readme.ROOT / update_readme.RESULTS
    if not folder.exists():
        pytest.skip("no results are committed yet")
    readme = (update_readme.ROOT / "README.md").read_text()
    section = update_readme.section(update_readme.read_results(folder))
    marks = update_readme.BEGIN, update_readme.END
    assert replace_section(readme, *marks, section) == readme
