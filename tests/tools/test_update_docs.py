"""Documents say what lies in docs/data/, and nothing else."""

import json
import re
import shutil
import statistics
from copy import deepcopy
from pathlib import Path
from unittest.mock import Mock

import pytest

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import config_sha256
from toolkit.ablation.places import place_in_ablation
from toolkit.launch import read_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copied(tmp_path, tool_module, monkeypatch) -> Path:
    """A copy of documents and results, which the tool takes for the repository."""
    for name in (*tool_module.DOCUMENTS, tool_module.MODEL_INDEX):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs" / "data", tmp_path / "docs" / "data")
    monkeypatch.setattr(tool_module, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def tool_module(load_tool):
    return load_tool("update_docs")


@pytest.fixture
def run(tool_module, monkeypatch):
    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["update_docs.py", *arguments])
        tool_module.main()

    return run


def test_committed_documents_are_up_to_date(run):
    run("--check")


def test_committed_results_are_of_the_configs_as_they_are(tool_module, monkeypatch):
    """A recipe that changes takes its figures along, and so does a row's name."""
    pytest.importorskip("mmpretrain")
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    monkeypatch.chdir(ROOT)
    data = tool_module.read_data(ROOT / "docs" / "data")
    for result in data.measured.values():
        assert result.config_sha256 == config_sha256(read_config(result.config))
    demos = [run for demo in data.demos.values() for run in demo.runs]
    for run in [*data.all_ablations, *demos]:
        cfg = read_config(run.result.config)
        if run.learning_rate is not None:
            cfg.optim_wrapper.optimizer.lr = run.learning_rate
        assert run.result.config_sha256 == config_sha256(cfg), run.result.config
        assert (run.rows, run.baseline_of) == place_in_ablation(cfg)
    for path, sha256 in data.speeds.configs.items():
        assert sha256 == config_sha256(read_config(path)), path


def test_a_changed_figure_reaches_every_document(copied, run):
    path = copied / "docs" / "data" / "computed.json"
    content = json.loads(path.read_text())
    content["coco"]["setformer_b"]["parameters"] = 66_600_000
    path.write_text(json.dumps(content))
    names = "model-index.yml, README.md, docs/tables.md"
    before = (copied / "README.md").read_bytes()
    with pytest.raises(UserError, match=f"{names} differ .*run `python tools/update"):
        run("--check")
    assert (copied / "README.md").read_bytes() == before
    run()
    for name, text in (
        ("model-index.yml", "Parameters: 66600000"),
        ("README.md", "[66.6 M, 375 G](configs/mask_rcnn_setformer_b.py)"),
        ("docs/tables.md", "66.6 M, 40 % fewer"),
    ):
        assert text in (copied / name).read_text(), name
    run("--check")


def detector_metrics(copied):
    """Box and mask mAP of the committed detector."""
    path = copied / "docs" / "data" / "measured" / "mask_rcnn_setformer_digits.json"
    metrics = json.loads(path.read_text())["metrics"]
    return metrics["coco/bbox_mAP"], metrics["coco/segm_mAP"]


def test_an_edit_between_marks_is_noticed_and_undone(copied, run):
    path = copied / "README.md"
    text = path.read_text()
    box, mask = detector_metrics(copied)
    assert f"**{box:.3f} / {mask:.3f}**" in text
    path.write_text(text.replace(f"**{box:.3f} /", f"**{box + 0.1:.3f} /"))
    with pytest.raises(UserError, match="^README.md differ"):
        run("--check")
    run()
    assert path.read_text() == text


def test_a_measured_figure_takes_its_place(copied, run):
    source = copied / "docs" / "data" / "measured" / "setformer_digits.json"
    content = json.loads(source.read_text())
    content["config"] = "configs/setformer_s_in1k.py"
    content["metrics"] = {"accuracy/top1": 83.21}
    source.with_name("setformer_s_in1k.json").write_text(json.dumps(content))
    run()
    lines = (copied / "docs" / "tables.md").read_text().splitlines()
    (row,) = [x for x in lines if x.startswith("| SeTformer-S") and "*84.7*" in x]
    assert row.replace(" ", "").endswith("|*84.7*|**83.2**|")


def test_readme_links_what_exists(tool_module):
    data = tool_module.read_data(ROOT / "docs" / "data")
    table = tool_module.models_overview(data) + tool_module.digits_table(data)
    links = re.findall(r"\]\(([^)]+)\)", table)
    assert len(links) == 4 * 3 + 3 * 3
    for link in links:
        assert (ROOT / link).exists(), link


def test_demos_stand_beside_the_committed_checkpoints(tool_module):
    data = tool_module.read_data(ROOT / "docs" / "data")
    data.demos["setformer_digits"].runs.clear()
    runs = data.demos["upernet_setformer_digits"].runs
    del runs[2:]
    runs[0].result.metrics["mIoU"], runs[1].result.metrics["mIoU"] = 50, 52
    rows = tool_module.demos_table(data).splitlines()
    box, mask = detector_metrics(ROOT)
    (detector,) = [row for row in rows if "`make demo`" in row]
    assert f"**{box:.3f} / {mask:.3f}**" in detector
    (classifier,) = [row for row in rows if "`make demo-cls`" in row]
    assert "not run yet" in classifier
    (segmenter,) = [row for row in rows if "`make demo-seg`" in row]
    assert "**51.0 ± 1.4**" in segmenter


def test_tables_have_notes_on_their_rows(tool_module):
    data = tool_module.read_data(ROOT / "docs" / "data")
    assert "FocalNet's detectors" in tool_module.whole_table("coco", data)
    note = "mIoU of SeTformer-B as NAT-B + 3.5"
    assert note in tool_module.whole_table("ade20k", data)


def test_sources_credit_figures_that_are_from_elsewhere(tool_module):
    data = tool_module.read_data(ROOT / "docs" / "data")
    lines = tool_module.sources_list(data).splitlines()
    (vmamba,) = [line for line in lines if line.startswith("- VMamba-T")]
    assert vmamba.startswith(
        "- VMamba-T, ConvNeXt-S on COCO, ConvNeXt-B on COCO: [VMamba"
    )
    assert any(line.startswith("- Swin-B on COCO: [CSWin") for line in lines)


def test_token_mixers_stand_with_both_of_their_tasks(tool_module):
    data = tool_module.read_data(ROOT / "docs" / "data")

    def scores(grid: str, config: str, rate: float | None) -> list[float]:
        return [
            run.score
            for run in data.ablations[grid]
            if Path(run.result.config).stem == config and run.learning_rate == rate
        ]

    (line,) = [
        line
        for line in tool_module.mixers_overview(data).splitlines()
        if line.startswith("| softmax")
    ]
    _, _, _, digits, _, relations, _ = (cell.strip() for cell in line.split("|"))
    for cell, values in (
        (digits, scores("converged", "converged_softmax", 1e-3)),
        (relations, scores("relations", "relations_softmax", None)),
    ):
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        assert cell == f"{mean:.1f} ± {deviation:.1f}"
    data.ablations["converged"] = [
        run
        for run in data.ablations["converged"]
        if Path(run.result.config).stem != "converged_none"
    ]
    with pytest.raises(UserError, match="converged has no none"):
        tool_module.mixers_overview(data)


def test_a_grid_is_compared_with_the_baseline_of_another_one(copied, run):
    folder = copied / "docs" / "data" / "ablation"
    runs = json.loads((folder / "mixers.json").read_text())
    baseline, field = deepcopy(runs[0]), deepcopy(runs[0])
    baseline.update(rows=dict(width="0.5"), baseline_of=["width"])
    baseline["result"].update(config="set.py")
    (folder / "mixers.json").write_text(json.dumps([*runs, baseline]))
    field.update(rows=dict(width="0.45"), baseline_of=[])
    field["result"].update(config="width_045.py", metrics={"accuracy/top1": 12.34})
    (folder / "others.json").write_text(json.dumps([field]))
    document = copied / "docs" / "ablations.md"
    marks = "<!-- begin {0}: written by tools/update_docs.py -->\n<!-- end {0} -->"
    document.write_text(document.read_text() + marks.format("ablation-others"))
    run()
    _, section = document.read_text().split("begin ablation-others")
    names = [line.split("|")[1].strip() for line in section.splitlines() if "|" in line]
    assert names[0] == "width"
    assert names[2:] == ["0.45", "**0.5**"]
    assert "12.34" in section
    pictures = copied / "docs" / "images"
    assert (pictures / "ablations.png").exists()
    # Learning curves of the grids whose runs have kept them.
    assert (pictures / "progress_relations.png").exists()
    assert not (pictures / "progress_others.png").exists()
    run("--check")


def test_a_grid_without_runs_says_so(copied, run):
    path = copied / "docs" / "data" / "ablation" / "mixers.json"
    path.write_text("[]\n")
    run()
    document = (copied / "docs" / "ablations.md").read_text()
    _, section = document.split(
        "begin ablation-mixers: written by tools/update_docs.py"
    )
    assert section.split("<!--")[0].strip("-> \n") == "*Not measured yet.*"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("begin models:", "begin pets:", "section pets, which does not exist"),
        ("end models -", "end pets -", "'<!-- end models -->' once each"),
        ("begin models:", "models:", "no document has marks for the section models"),
    ],
)
def test_wrong_marks_end_with_a_sentence(copied, run, old, new, sentence):
    path = copied / "README.md"
    path.write_text(path.read_text().replace(f"<!-- {old}", f"<!-- {new}"))
    with pytest.raises(UserError, match=sentence):
        run()


def test_documents_stay_behind_pictures_that_could_not_be_drawn(
    copied, run, tool_module, monkeypatch
):
    path = copied / "docs" / "data" / "ablation" / "converged.json"
    content = json.loads(path.read_text())
    content[0]["seconds"] += 6000
    path.write_text(json.dumps(content))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no ink"):
        patch.setattr(tool_module, "draw", Mock(side_effect=RuntimeError("no ink")))
        run()
    with pytest.raises(UserError, match="^docs/ablations.md differ"):
        run("--check")


@pytest.mark.parametrize("grid", ["converged", "relations"])
def test_a_grid_that_waits_to_be_run(copied, run, grid):
    path = copied / "docs" / "data" / "ablation" / f"{grid}.json"
    path.write_text("[]")
    run()
    assert "*Not measured yet.*" in (copied / "README.md").read_text()
    path.unlink()
    with pytest.raises(UserError, match=f"{grid}.json does not exist"):
        run()


def test_a_run_that_kept_no_log(copied, run):
    path = copied / "docs" / "data" / "ablation" / "converged.json"
    content = json.loads(path.read_text())
    for one in content:
        if one["rows"].get("token mixer, converged") == "softmax":
            one["curve"] = []
    path.write_text(json.dumps(content))
    run()
    lines = (copied / "README.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| softmax ")]
    assert row.split("|")[4].strip() == "–"


def test_speeds_that_lack_a_row(copied, run):
    path = copied / "docs" / "data" / "benchmarks" / "configs" / "mixers.json"
    content = json.loads(path.read_text())
    for times in content["groups"][0]["times"].values():
        del times["SeT"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="speeds of 'token mixer, converged' lack SeT;"):
        run()


@pytest.mark.parametrize(
    "name", ["published.yaml", "computed.json", "demos.yaml", "demos.json"]
)
def test_a_missing_file_ends_with_a_sentence(copied, run, name):
    (copied / "docs" / "data" / name).unlink()
    with pytest.raises(UserError, match=f"{name} do(es)? not exist"):
        run()


def test_index_lists_what_committed_checkpoints_reach(tool_module, copied):
    modelindex = pytest.importorskip("modelindex.load_model_index")
    data = tool_module.read_data(copied / "docs" / "data")
    (copied / "model-index.yml").write_text(tool_module.model_index(data))
    index = modelindex.load(str(copied / "model-index.yml"))
    index.build_models_with_collections()
    models = {model.name: model for model in index.models}
    detector = models["mask_rcnn_setformer_digits"]
    box, mask = detector_metrics(copied)
    assert [r.metrics for r in detector.results] == [
        {"box AP": pytest.approx(100 * box)},
        {"mask AP": pytest.approx(100 * mask)},
    ]
    flops = models["upernet_setformer_t"].metadata.data["FLOPs"]
    assert flops == data.computed["ade20k"]["setformer_t"].multiply_adds
