"""tools/bench_configs.py: what it measures, and what keeps it from measuring."""

import json
from functools import partial
from pathlib import Path

import pytest

from setformer_mm.utils.errors import UserError
from toolkit.ablation.places import Place
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
        place = Place({"a group": name}, ["a group"] * (name == "SeTformer"))
        return configs.Entry(str(config), "0" * 64, place, (32, 32), 2)

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
    assert [Path(path).stem for path in group["configs"]] == [
        "classifier_swin",
        "classifier_setformer",
    ]
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


def test_nothing_is_measured_for_a_document_without_the_section(run, tmp_path):
    with pytest.raises(SystemExit, match="missing.md cannot be updated"):
        run("--document", tmp_path / "missing.md")
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(SystemExit, match="page.md cannot be updated: .*begin backb"):
        run("--document", tmp_path / "page.md", "--json", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_files_are_kept(run, tmp_path):
    with pytest.raises(SystemExit, match="classifier_swin.py is read and would be"):
        run("--json", FOLDER / "classifier_swin.py")
    with pytest.raises(SystemExit, match="--json and --markdown both name .*a.json"):
        run("--json", tmp_path / "a.json", "--markdown", tmp_path / "a.json")


@pytest.mark.parametrize("flag", ["--rounds", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1", "2.5", "many"])
def test_counts_are_positive(run, flag, value, capsys):
    with pytest.raises(SystemExit):
        run(f"{flag}={value}")
    assert f"{flag}: must be a positive integer, got {value}" in capsys.readouterr().err


def make_entry(config: str, place: Place, size=(32, 32), batch=2) -> configs.Entry:
    return configs.Entry(config, "0" * 64, place, size, batch)


def test_a_baseline_is_measured_in_each_of_its_groups():
    rows = {"mixer": "SeT", "epsilon": "0.1", "tau": "0.5"}
    entries = [
        make_entry("set.py", Place(rows, list(rows))),
        make_entry("none.py", Place({"mixer": "none"}, [])),
        make_entry("epsilon.py", Place({"epsilon": "0.2"}, [])),
    ]
    groups = configs.group_entries(entries)
    assert {group: list(names) for group, names in groups.items()} == {
        "mixer": ["SeT", "none"],
        "epsilon": ["0.1", "0.2"],
    }
    assert configs.baseline_of("epsilon", groups["epsilon"]) == "0.1"
    assert list(configs.group_entries(entries[:1])) == list(rows)


def test_configs_that_cannot_stand_side_by_side():
    place = Place({"mixer": "none"}, [])
    entries = [make_entry("a.py", place), make_entry("b.py", place)]
    with pytest.raises(UserError, match="a.py and b.py both stand as 'none' in 'mixer"):
        configs.group_entries(entries)
    other = Place({"mixer": "window"}, [])
    for change in (dict(size=(32, 64)), dict(batch=3)):
        entries[1] = make_entry("b.py", other, **change)
        with pytest.raises(UserError, match="got 2 pictures of 32 x 32 in a.py and"):
            configs.group_entries(entries)


def test_a_backbone_with_frozen_stages_is_checked_by_the_others():
    entry = make_entry(str(FOLDER / "classifier_setformer.py"), Place({"a": "b"}, []))
    build = configs.build

    def frozen(*args):
        model = build(*args)
        model.backbone.stages[0].requires_grad_(False)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configs, "build", frozen)
        assert configs.largest_error(entry, "cpu") < 1e-3


def test_what_is_measured():
    place = Place({"a group": "ResNet"}, ["a group"])
    config = str(FOLDER / "classifier_resnet.py")
    entry = configs.Entry(config, "0" * 64, place, (32, 32), 2)
    gradients = configs.prepare(entry, True, "cpu")
    assert gradients() is None
    features = configs.prepare(entry, False, "cpu")()
    assert [tuple(f.shape) for f in features] == [(2, 160)]
