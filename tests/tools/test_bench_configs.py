"""tools/bench_configs.py: what it measures, and what keeps it from measuring."""

import json
from functools import partial
from pathlib import Path

import pytest

from toolkit.benchmarks import configs
from toolkit.document_sections import marks_of

pytest.importorskip("mmpretrain")
FOLDER = Path(__file__).resolve().parents[2] / "configs" / "backbones"
NAMES = dict(swin="Swin", setformer="SeTformer")


@pytest.fixture
def run(load_tool, run_module, monkeypatch):
    """Without data: pictures are of 32 x 32, in batches of two."""
    module = load_tool("bench_configs")

    def entry_of(config: str) -> configs.Entry:
        name = NAMES[Path(config).stem.partition("_")[2]]
        return configs.Entry(config, "a group", name, name == "SeTformer", (32, 32), 2)

    monkeypatch.setattr(module, "entry_of", entry_of)
    names = [FOLDER / f"classifier_{name}.py" for name in NAMES]
    return partial(
        run_module, module, *names, "--rounds", 2, "--no-memory", "--threads", 1
    )


def test_models_side_by_side(run, tmp_path, capsys):
    document = tmp_path / "page.md"
    document.write_text("\n".join(marks_of("backbones")))
    run("--json", tmp_path / "a.json", "--document", document)
    (group,) = json.loads((tmp_path / "a.json").read_text())["groups"]
    assert group["baseline"] == "SeTformer"
    for task in ("inference", "training"):
        times = group["times"][task]
        assert list(times) == ["Swin", "SeTformer"]
        assert all(len(of) == 2 and min(of) > 0 for of in times.values())
    printed = capsys.readouterr().out
    assert "| a group, 32 x 32, batch 2 | parameters |" in " ".join(printed.split())
    assert printed.strip() in document.read_text()


def test_nothing_is_measured_of_what_is_wrong(run, wrong_attention, tmp_path):
    with pytest.raises(SystemExit, match="classifier_setformer.py is wrong"):
        run("--json", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_what_is_measured():
    entry = configs.Entry(
        str(FOLDER / "classifier_resnet.py"), "a group", "ResNet", True, (32, 32), 2
    )
    gradients = configs.prepare(entry, True, "cpu")
    assert gradients() is None
    features = configs.prepare(entry, False, "cpu")()
    assert [tuple(f.shape) for f in features] == [(2, 160)]
