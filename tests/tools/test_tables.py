"""tools/tables.py: the committed counts, formats, measured figures, speed."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmpretrain")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.config import Config

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import config_sha256
from toolkit.model_figures import TASKS, read_computed, read_published

ROOT = Path(__file__).parents[2]
COMMITTED = read_computed(ROOT / "docs" / "data" / "computed.json")
OURS = [f"setformer_{variant}" for variant in "mtsb"]
QUICK = [*OURS, "swin_t", "convnext_t"]


@pytest.fixture
def tables(load_tool):
    return load_tool("tables")


@pytest.fixture
def run(tables, monkeypatch, capsys):
    """Run the tool without building anything; return what it prints."""

    def run(*arguments: str, keys: list[str] = QUICK) -> str:
        monkeypatch.setattr(
            tables, "compute", lambda task, key: COMMITTED[name_of(task)][key]
        )
        monkeypatch.setattr(tables, "models_of", lambda name, published: (keys, {}))
        monkeypatch.setattr("sys.argv", ["tables.py", *map(str, arguments)])
        tables.main()
        return capsys.readouterr().out

    return run


def name_of(task) -> str:
    return next(name for name in TASKS if TASKS[name] is task)


def test_json_that_is_a_folder(tables, monkeypatch, tmp_path):
    """Known before anything is computed."""
    monkeypatch.setattr(tables, "compute", lambda *_: 1 / 0)
    monkeypatch.setattr("sys.argv", ["tables.py", "coco", "--json", str(tmp_path)])
    with pytest.raises(UserError, match="--json names a file, and .* is a folder"):
        tables.main()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param(name, key, marks=[] if key in QUICK else pytest.mark.slow)
        for name in TASKS
        for key in COMMITTED[name]
    ],
)
def test_committed_figures_are_what_is_computed(name, key, tables):
    if key.startswith("focalnet"):
        pytest.importorskip("timm")
    assert tables.compute(TASKS[name], key) == COMMITTED[name][key]


def test_every_model_that_ships_is_committed(tables):
    pytest.importorskip("timm")
    published = read_published(tables.PUBLISHED)
    for name in TASKS:
        keys, _ = tables.models_of(name, published)
        assert set(keys) == set(COMMITTED[name])
        assert set(keys) == {*OURS, *tables.PEERS}


def test_peers_of_a_missing_library_say_so(tables, monkeypatch):
    found = tables.importlib.util.find_spec
    monkeypatch.setattr(
        tables.importlib.util, "find_spec", lambda x: None if x == "timm" else found(x)
    )
    published = read_published(tables.PUBLISHED)
    keys, missing = tables.models_of("coco", published)
    assert "focalnet_t" not in keys and "swin_t" in keys
    assert missing["focalnet_t"] == "timm is not installed"
    assert missing["cswin_t"] == "–"


def test_missing_host_library_ends_with_a_sentence(tables, monkeypatch):
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda library: None)
    with pytest.raises(UserError, match="coco needs mmdet, not installed"):
        tables.require_libraries(["coco"], "cpu")


def test_heads_fit_the_backbone_that_replaces_ours(tables):
    cfg = tables.load_config(TASKS["ade20k"], "swin_b")
    assert cfg.model.backbone.type == "mmpretrain.SwinTransformer"
    assert cfg.model.decode_head.in_channels == [128, 256, 512, 1024]
    assert cfg.model.auxiliary_head.in_channels == 512
    cfg = tables.load_config(TASKS["coco"], "setformer_s")
    assert cfg.model.backbone.type == "SeTformer"
    assert cfg.model.backbone.init_cfg is None


def test_formats(run, tmp_path):
    for form in ("terminal", "markdown", "csv"):
        text = run("coco", "--format", form, "--work-dirs", tmp_path)
        assert "SeTformer-B" in text and "not trained" in text
        assert "29 % fewer multiply-adds than FocalNet-B" in text
        assert ("*49.3 / 44.0*" in text) == (form == "markdown")
    models, claims = text.strip().split("\n\n")
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(models))}
    assert float(rows["Swin-T"]["multiply-adds (G), computed"]) == pytest.approx(
        COMMITTED["coco"]["swin_t"].multiply_adds / 1e9
    )
    verdicts = {row["holds"] for row in csv.DictReader(io.StringIO(claims))}
    assert verdicts == {"yes", "no"}


def row_of(name: str, table: str) -> str:
    return next(x for x in table.splitlines() if x.startswith(f"| {name} "))


def test_measured_figures_come_from_work_dirs(run, tmp_path):
    source = ROOT / "docs" / "data" / "measured" / "setformer_digits.json"
    content = json.loads(source.read_text())
    content["config"] = "configs/setformer_m_in1k.py"
    content["metrics"] = {"accuracy/top1": 80.04}
    folder = tmp_path / "some_run"
    folder.mkdir()
    (folder / "test_result.json").write_text(json.dumps(content))
    lines = run("imagenet", "--format", "markdown", "--work-dirs", tmp_path)
    note = "Of SeTformer-M, 1 run had other settings than configs/setformer_m_in1k.py"
    assert note in lines and row_of("SeTformer-M", lines).endswith("not trained |")
    flags = ("imagenet", "--format", "markdown", "--work-dirs", tmp_path)
    lines = run(*flags, "--all-runs")
    measured = "|*81.7†*|**80.0**|"
    assert row_of("SeTformer-M", lines).replace(" ", "").endswith(measured)
    assert row_of("SeTformer-T", lines).endswith("not trained |") and note in lines
    own = config_sha256(Config.fromfile(ROOT / content["config"]))
    (folder / "test_result.json").write_text(
        json.dumps(content | dict(config_sha256=own))
    )
    lines = run(*flags)
    assert row_of("SeTformer-M", lines).replace(" ", "").endswith(measured)
    assert note not in lines


def test_computed_figures_are_written(run, tmp_path):
    path = tmp_path / "computed.json"
    run("imagenet", "ade20k", "--json", path, "--work-dirs", tmp_path)
    written = read_computed(path)
    assert set(written) == {"imagenet", "ade20k"}
    assert set(written["ade20k"]) == set(QUICK)
    assert "torch" in json.loads(path.read_text())["versions"]


def test_speed_adds_a_column_and_its_method(run, tmp_path):
    flags = ("--speed", "--device", "cpu", "--batch", 2, "--size", 224, 256)
    text = run(
        *("imagenet", "--work-dirs", tmp_path, "--rounds", 2, *flags),
        keys=["setformer_m"],
    )
    (row,) = [line for line in text.splitlines() if line.startswith("| SeTformer-M ")]
    speed, *quartiles = row.split("|")[-2].replace("(", "").replace(")", "").split()
    assert float(speed) > 0 and quartiles[1] == "to"
    (row,) = [line for line in text.splitlines() if line.startswith("| NAT-M")]
    assert row.split("|")[-2].strip() == ""
    threads = torch.get_num_threads()
    assert "medians of 2 rounds" in text and "2 random images of 224 x 256" in text
    assert f"{threads} threads, torch {torch.__version__}" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["coco", "ade20k"])
def test_speed_of_dense_models(name, run, tmp_path):
    flags = ("--speed", "--device", "cpu", "--size", 224, 224, "--rounds", 1)
    text = run(name, "--work-dirs", tmp_path, *flags, keys=["swin_t"])
    (row,) = [line for line in text.splitlines() if line.startswith("| Swin-T ")]
    assert float(row.split("|")[-2].split()[0]) > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pets"], "invalid choice: 'pets'"),
        (["coco", "--rounds", "0"], "--rounds: must be a positive integer, got 0"),
        (["coco", "--size", "8", "224"], "--size must be at least 224 224"),
    ],
)
def test_wrong_arguments(arguments, sentence, tables, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tables.py", *arguments])
    with pytest.raises(SystemExit):
        tables.parse_args()
    assert sentence in capsys.readouterr().err
