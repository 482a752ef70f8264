"""The data of an ablation, its tables and its picture, from made-up runs."""

import dataclasses
import json
import math
import random
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from mmengine.config import Config
from PIL import Image

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import Result
from toolkit.ablation.pictures import draw, draw_progress, far_below
from toolkit.ablation.places import place_in_ablation
from toolkit.ablation.runs import (
    AblationRun,
    Row,
    best_rate,
    compare,
    group_runs,
    read_runs,
    write_runs,
)
from toolkit.ablation.speeds import read_speeds
from toolkit.ablation.tables import markdown

TOP1 = "accuracy/top1"
BASELINES = {"mixer": "SeT", "epsilon": 0.1}


def make_run(
    group: str, name: object, score: float, seed: int = 0, **changes
) -> AblationRun:
    """A run of the config that an ablation of ``BASELINES`` would have for it."""
    cfg = Config(
        dict(ablation=dict(group=group, name=name, baselines=BASELINES)),
        filename=None,
    )
    rows, baseline_of = place_in_ablation(cfg)
    result = Result(
        kind="train",
        config=f"{group}_{name}.py",
        config_sha256="0" * 64,
        checkpoint=None,
        checkpoint_sha256=None,
        metrics={"loss": 9.0, TOP1: score},
        num_parameters=1_234_567,
        seed=seed,
        tta=False,
        versions=dict(python="3.11.7"),
        date=f"2025-01-0{seed + 1}T00:00:00+00:00",
    )
    return AblationRun(
        rows, baseline_of, 12_345_678, 60.0, dataclasses.replace(result, **changes)
    )


@pytest.fixture
def runs() -> list[AblationRun]:
    """Two mixers with three seeds, two values of epsilon with one, shuffled."""
    runs = [
        make_run("mixer", name, score, seed)
        for name, scores in dict(SeT=(80, 81, 82), softmax=(84, 86, 85)).items()
        for seed, score in enumerate(scores)
    ]
    runs += [make_run("epsilon", 0.05, 81.5), make_run("epsilon", 0.5, 73.0)]
    random.shuffle(runs)
    return runs


def cells(table: str) -> dict[str, list[str]]:
    """Cells of each line of all tables, by the first one."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in found}


def test_groups_and_order(runs):
    groups = group_runs(runs)
    names = {group: [row.name for row in rows] for group, rows in groups.items()}
    assert names["mixer"] == ["softmax", "SeT"]  # the better one first
    assert names["epsilon"] == ["0.05", "0.1", "0.5"]
    assert [row.is_baseline for row in groups["epsilon"]] == [False, True, False]
    seeds = [run.result.seed for run in groups["epsilon"][1].runs]
    assert seeds == [0, 1, 2]


def test_order_is_that_of_the_seeds_that_all_rows_have(runs):
    """By all of its seeds the baseline, with 81 in the mean, would come first."""
    others = [make_run("mixer", "none", 80.5), make_run("mixer", "agent", 79.5)]
    baselines = [run for run in runs if run.baseline_of]
    (rows,) = group_runs([*baselines, *others]).values()
    assert [row.name for row in rows] == ["none", "SeT", "agent"]


def test_tables(runs):
    rows = cells(markdown(runs))
    assert rows["mixer"][-1] == "against SeT"
    assert rows["epsilon"][-1] == "against 0.1"
    size = ["1.23 M", "12.3 M"]
    assert rows["softmax"] == [*size, "85.00", "1.00", "84.0, 86.0, 85.0", "**+4.00**"]
    assert rows["**SeT**"] == [*size, "81.00", "1.00", "80.0, 81.0, 82.0", ""]
    assert rows["**0.1**"] == rows["**SeT**"]
    # Against the same seed of the baseline, 80, not against its mean. One seed a side,
    # of which three have deviation 1: 4.303 sqrt(2) = 6.09 is the least that is bold.
    assert rows["0.05"] == [*size, "81.50", "–", "81.5", "+1.50"]
    assert rows["0.5"][-1] == "**−7.00**"


def test_mask_map_stands_beside_box_map():
    metrics = {"coco/bbox_mAP": 0.5, "coco/segm_mAP": 0.4}
    runs = [
        make_run("mixer", "SeT", 0.0, metrics=metrics),
        make_run("mixer", "none", 0.0, 0, metrics=metrics | {"coco/segm_mAP": 0.3}),
        make_run("mixer", "none", 0.0, 1, metrics=metrics | {"coco/segm_mAP": 0.2}),
    ]
    rows = cells(markdown(runs))
    column = rows["mixer"].index("mask mAP")
    assert rows["**SeT**"][column] == "0.400"
    assert rows["none"][column] == "0.250"


def test_legend(runs):
    legend = markdown(runs).splitlines()[-3:]
    assert "bold where a t-test" in legend[1]
    assert legend[2] == (
        "8 runs, 8 min of training in all; 2025-01-01 to 2025-01-03; python 3.11.7."
    )


def test_few_seeds_may_be_chance():
    """False alarms come as often as the level says, for equal and unequal spreads."""
    alarms = []
    for _ in range(400):
        baseline = make_row(np.random.normal(0, random.choice([1, 5]), size=3))
        alarms.append(compare(make_row(np.random.normal(0, 1, size=3)), baseline)[1])
        baseline = make_row(np.random.normal(0, 1, size=3))
        one, apart = np.random.normal(0, 1, size=(2, 1))
        alarms.append(compare(make_row(one), baseline)[1])
        alarms.append(compare(make_row(apart, first_seed=7), baseline)[1])
    print(f"{np.mean(alarms)=}")
    assert 0.015 < np.mean(alarms) < 0.1
    assert compare(make_row([0.0]), make_row([100.0])) == (-100, False)


def make_row(scores, first_seed: int = 0) -> Row:
    runs = [
        make_run("mixer", "SeT", score, seed)
        for seed, score in enumerate(map(float, scores), first_seed)
    ]
    return Row("SeT", True, runs)


def test_what_is_compared_are_the_seeds_that_both_have():
    baseline = make_row([80, 90, 100])
    assert compare(make_row([81, 92]), baseline) == (1.5, False)
    assert compare(make_row([92], first_seed=1), baseline)[0] == 2
    assert compare(make_row([92], first_seed=3), baseline)[0] == 2  # none in common
    assert compare(make_row([80]), make_row([90, 90])) == (-10, False)  # no deviation


def test_groups_without_comparison_are_left_out(runs):
    mixers = [run for run in runs if "mixer" in run.rows]
    assert list(group_runs(mixers)) == ["mixer"]
    assert list(group_runs(make_baselines([1, 2]))) == list(BASELINES)


def make_baselines(scores) -> list[AblationRun]:
    return [make_run("mixer", "SeT", score, seed) for seed, score in enumerate(scores)]


def test_one_seed_each_claims_nothing():
    table = markdown([*make_baselines([80]), make_run("mixer", "none", 10)])
    assert cells(table)["none"][-1] == "−70.00"


def test_group_without_baseline(runs):
    others = [run for run in runs if not run.baseline_of]
    rows = cells(markdown(others))
    assert (
        rows["mixer"][-1] == "each seed" and rows["softmax"][-1] == "84.0, 86.0, 85.0"
    )


def test_never_mixes_versions_of_a_config(runs):
    runs.append(make_run("mixer", "softmax", 85.0, 3, config_sha256="1" * 64))
    with pytest.raises(UserError, match="'softmax' in 'mixer' must be of one version"):
        markdown(runs)


def test_never_mixes_configs_of_one_name(runs):
    runs.append(make_run("mixer", "softmax", 85.0, 3, config="other.py"))
    with pytest.raises(UserError, match="mixer_softmax.py and other.py both stand as"):
        markdown(runs)


def test_a_group_has_a_table_for_each_metric():
    runs = [
        make_run("mine", "classifier", 90.0),
        make_run("mine", "segmenter", 0.0, metrics=dict(mIoU=50.0)),
        make_run("mine", "smaller", 80.0),
    ]
    groups = {group: [r.name for r in rows] for group, rows in group_runs(runs).items()}
    assert groups == {
        "mine, top-1 accuracy (%)": ["classifier", "smaller"],
        "mine, mIoU (%)": ["segmenter"],
    }
    assert list(group_runs(runs[::2])) == ["mine"]


def test_scores_that_are_no_number(runs, tmp_path):
    """A run that diverged is the last of its group, and hides no other."""
    runs += [make_run("mixer", "none", s, i) for i, s in enumerate([70.0, math.nan])]
    runs.append(make_run("mixer", "window", math.nan))
    runs.append(make_run("mixer", "agent", 99.0))
    table = cells(markdown(runs))
    assert table["none"][2:5] == ["–", "–", "70.0, –"]
    assert table["none"][-1] == table["window"][2] == "–"
    names = [row.name for row in group_runs(runs)["mixer"]]
    assert names[0] == "agent" and set(names[-2:]) == {"none", "window"}
    draw(runs, tmp_path / "ablation.png")
    write_runs(tmp_path / "runs.json", runs)
    assert markdown(read_runs([tmp_path / "runs.json"])) == markdown(runs)


def test_validations_that_are_no_number_are_left_out_of_curves(tmp_path):
    run = with_curve(make_run("mixer", "SeT", 80.0), [20, 40, 60])
    end = run.curve[-1]
    run.curve[1] = (run.curve[1][0], math.nan)
    write_runs(tmp_path / "runs.json", [run])
    (read,) = read_runs([tmp_path / "runs.json"])
    assert read.curve == [run.curve[0], end]
    assert draw_progress([read], tmp_path / "progress.png")


def test_first_metric_if_none_is_known():
    run = make_run("mixer", "none", 85.0, metrics=dict(error=0.25, other=1.0))
    assert (run.metric, run.score) == ("error", 0.25)


def test_files(runs, tmp_path):
    half = len(runs) // 2
    write_runs(tmp_path / "a" / "1.json", runs[: half + 1])
    write_runs(tmp_path / "2.json", runs[half:])  # one of them twice
    read = read_runs([tmp_path / "a" / "1.json", tmp_path / "2.json"])
    assert read == runs


@pytest.mark.parametrize("content", ["", "{", "3", "[3]", "[{}]", '[{"result": {}}]'])
def test_broken_file(tmp_path, content):
    (tmp_path / "runs.json").write_text(content)
    with pytest.raises(UserError, match="runs.json does not hold runs"):
        read_runs([tmp_path / "runs.json"])


@pytest.mark.parametrize(
    "change",
    [
        dict(rows={}),
        dict(rows="mixer"),
        dict(baseline_of=None),
        dict(baseline_of=["tau"]),
        dict(seconds=None),
        dict(learning_rate="1e-3"),
        dict(curve=[[0, 1.0]]),
        dict(curve=[[1.0]]),
        dict(metrics={}),
        dict(metrics={TOP1: "80"}),
        dict(metrics={TOP1: math.inf}),
    ],
)
def test_a_run_with_something_wrong(tmp_path, change):
    (content,) = (dataclasses.asdict(make_run("mixer", "SeT", 80.0)),)
    content["result"] |= {k: v for k, v in change.items() if k == "metrics"}
    content |= {k: v for k, v in change.items() if k != "metrics"}
    (tmp_path / "runs.json").write_text(json.dumps([content]))
    with pytest.raises(UserError, match="runs.json does not hold runs"):
        read_runs([tmp_path / "runs.json"])


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.json do not exist"):
        read_runs([tmp_path / "none.json"])


def test_picture(runs, tmp_path, monkeypatch):
    drawn = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a))
    )
    draw(runs, tmp_path / "new" / "picture.png")
    assert Image.open(tmp_path / "new" / "picture.png").width > 500
    mixers, epsilon = drawn[0].axes
    assert [t.get_text() for t in mixers.get_yticklabels()] == ["SeT", "softmax"]
    assert mixers.get_xlabel() == epsilon.get_ylabel() == "top-1 accuracy (%)"
    dots = [line for line in mixers.lines if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in dots] == [[80, 81, 82], [84, 85, 86]]
    curve = next(line for line in epsilon.lines if line.get_marker() != "o")
    assert list(curve.get_ydata()) == [81.5, 80.0, 73.0]  # of seed 0, which all have
    colors = {t.get_text(): t.get_color() for t in epsilon.get_xticklabels()}
    assert [name for name, c in colors.items() if c == "tab:red"] == ["0.1"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([90, 45, 88, 46, 89, 87, 88.5, 89.5], 46),
        ([90, 45, 88, 46], -np.inf),  # as many as a half
        ([90, 80, 88, 85, 87], -np.inf),  # no such gap
        ([50, 90], -np.inf),
        ([50], -np.inf),
    ],
)
def test_far_below(scores, expected):
    random.shuffle(scores)
    assert far_below(scores) == expected


def test_picture_of_one_far_below(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    draw([*runs, make_run("mixer", "none", 12.3)], tmp_path / "picture.png")
    mixers, _ = drawn[0].axes
    assert [text.get_text() for text in mixers.texts] == ["◂ 12.3"]
    assert min(x for line in mixers.lines for x in line.get_xdata()) == 80


def test_picture_of_names_alone(tmp_path):
    draw(make_baselines((1, 2)), tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").height > 50


# Learning curves and learning rates


def with_curve(run: AblationRun, scores: list[float], **changes) -> AblationRun:
    """A run of 24 epochs, with validations at equal distances."""
    step = 24 // len(scores)
    curve = [(step * (i + 1), score) for i, score in enumerate(scores)]
    changes = dict(training_seconds=600.0, images_per_second=250.0) | changes
    return dataclasses.replace(run, curve=curve, **changes)


def test_scores_after_a_share_of_the_training():
    run = with_curve(make_run("mixer", "SeT", 80.0), [10, 50, 79, 80])
    assert run.score_after(1) == 80 and run.score_after(0.5) == 50
    assert run.score_after(1 / 3) is None  # 8 epochs of 24: between 6 and 12
    assert make_run("mixer", "SeT", 80.0).score_after(1) is None


def test_columns_of_learning_curves():
    runs = [
        with_curve(make_run("mixer", name, scores[-1], seed), scores)
        for name in ("SeT", "softmax")
        for seed, scores in enumerate(([20, 60, 90], [30, 64, 91]))
    ]
    rows = cells(markdown(runs))
    assert rows["mixer"][5:] == [
        "at a third",
        "at two thirds",
        "ms an image",
        "against SeT",
    ]
    assert rows["softmax"][5:] == ["25.00", "62.00", "4.00", "+0.00"]
    del rows
    # A column that one row lacks is left out.
    runs[0] = dataclasses.replace(runs[0], curve=[(24, 90)], images_per_second=None)
    assert cells(markdown(runs))["mixer"][5:] == ["against SeT"]


@pytest.fixture
def tried() -> list[AblationRun]:
    """Three rates with seed 0, the best one of each mixer with seed 1 as well."""
    scores = {
        ("SeT", 1e-3, 0): 80.0,
        ("SeT", 2e-3, 0): 85.0,
        ("SeT", 5e-4, 0): 70.0,
        ("SeT", 2e-3, 1): 83.0,
        ("none", 1e-3, 0): 50.0,
        ("none", 2e-3, 0): 10.0,
        ("none", 5e-4, 0): 40.0,
        ("none", 1e-3, 1): 52.0,
    }
    runs = []
    for (name, rate, seed), score in scores.items():
        sha256 = f"{rate:g}".ljust(64, "0")
        run = make_run("mixer", name, score, seed, config_sha256=sha256)
        runs.append(dataclasses.replace(run, learning_rate=rate))
    random.shuffle(runs)
    return runs


def test_the_best_learning_rate_stands_in_the_tables(tried):
    rows = {row.name: row for row in group_runs(tried)["mixer"]}
    assert rows["SeT"].scores == [85, 83] and rows["none"].scores == [50, 52]
    assert rows["SeT"].tried == {5e-4: 70, 1e-3: 80, 2e-3: 85}
    text = markdown(tried)
    first, second, legend = text.split("\n\n")
    assert cells(first)["none"][2:4] == ["51.00", "1.41"]
    assert cells(second)["mixer: top-1 accuracy (%) by learning rate"] == [
        "0.0005",
        "0.001",
        "0.002",
    ]
    assert cells(second)["none"] == ["40.00", "**50.00**", "10.00"]
    assert cells(second)["SeT"] == ["70.00", "80.00", "**85.00**"]
    assert "Learning rates were tried with the first seed" in legend


def test_other_rates_of_another_version_do_not_mix(tried):
    run = make_run("mixer", "none", 53.0, 2, config_sha256="1" * 64)
    with pytest.raises(UserError, match="must be of one version of mixer_none.py"):
        markdown([*tried, dataclasses.replace(run, learning_rate=1e-3)])


def test_curves_and_rates_in_files(tried, tmp_path):
    runs = [with_curve(run, [1.5, 2.5, run.score]) for run in tried]
    write_runs(tmp_path / "runs.json", runs)
    assert read_runs([tmp_path / "runs.json"]) == runs


def test_progress_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    assert not draw_progress(make_baselines([80, 81]), tmp_path / "none.png")
    assert drawn == []
    runs = [
        with_curve(make_run("mixer", name, scores[-1], seed), scores)
        for name in ("SeT", "softmax")
        for seed, scores in enumerate(([20, 60, 90], [30, 64, 92]))
    ]
    runs[0] = dataclasses.replace(runs[0], curve=runs[0].curve[1:])  # one was lost
    assert draw_progress(runs, tmp_path / "progress.png")
    by_step, by_time, by_size = drawn[0].axes
    lines = {len(line.get_xdata()): line for line in by_step.lines}
    assert list(lines[3].get_ydata()) == [25, 62, 91]
    assert list(lines[3].get_xdata()) == [8, 16, 24]
    assert list(lines[2].get_ydata()) == [62, 91]  # what both seeds have
    assert max(x for line in by_time.lines for x in line.get_xdata()) == 10
    assert {line.get_label() for line in by_size.lines} == {"SeT", "softmax"}
    assert sorted(by_size.lines[0].get_ydata()) == [90, 92]


@pytest.fixture
def measured(tmp_path):
    """Write what tools/bench_configs.py measures, of some rows."""

    def measured(**times: float):
        group = dict(name="mixer", batch=50, configs={})
        group["times"] = dict(
            inference={name: [9.0] for name in times},
            training={name: [9.0, t, 1e-9] for name, t in times.items()},
        )
        machine = dict(device="A", instructions="AVX9", threads=1, cpus=2)
        machine |= dict(dtype="float32", torch="9.9", date="2026-11-30")
        path = tmp_path / "speeds.json"
        path.write_text(json.dumps(dict(environment=machine, groups=[group])))
        return read_speeds([path])

    return measured


def test_times_measured_side_by_side_replace_those_of_the_runs(
    measured, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    runs = [
        with_curve(make_run("mixer", name, 80.0), [20, 80], training_seconds=seconds)
        for name, seconds in (("SeT", 600.0), ("softmax", 1200.0))
    ]
    runs[1] = dataclasses.replace(runs[1], images_per_second=125.0)
    text = markdown(runs, measured(SeT=0.1, softmax=0.3))
    rows = cells(text)
    assert rows["mixer"][5] == "ms an image"
    assert rows["**SeT**"][5] == "2.00" and rows["softmax"][5] == "6.00"
    sentence = "of training backbone and neck with random weights, side by side: A (AV"
    assert sentence in text
    draw_progress(runs, tmp_path / "p.png", measured(SeT=0.1, softmax=0.3))
    _, by_time, _ = drawn.pop().axes
    ends = [line.get_xdata()[-1] for line in by_time.lines]
    assert ends == pytest.approx([5, 15])  # minutes of 150,000 images

    with pytest.raises(UserError, match="speeds of 'mixer' lack softmax; measure"):
        markdown(runs, measured(SeT=0.1))


def test_times_of_the_runs(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    runs = [
        with_curve(make_run("mixer", name, 80.0), [20, 80])
        for name in ("SeT", "softmax")
    ]
    assert "Times of an image are those of the trainings, which comp" in markdown(runs)
    # Not compared unless all are known.
    runs[1] = dataclasses.replace(runs[1], images_per_second=None)
    assert " an image" not in markdown(runs)
    draw_progress(runs, tmp_path / "p.png")
    _, by_time, _ = drawn.pop().axes
    assert not by_time.lines and by_time.get_xlabel() == "time not measured"


def test_speeds_that_are_none(tmp_path):
    path = tmp_path / "speeds.json"
    for text in ("[]", "{}", '{"groups": [{}]}', "no JSON"):
        path.write_text(text)
        with pytest.raises(UserError, match="does not hold speeds of configs"):
            read_speeds([path])
    with pytest.raises(UserError, match="none.json does not hold speeds of configs"):
        read_speeds([tmp_path / "none.json"])


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, None])
def test_speeds_with_wrong_times(measured, seconds):
    with pytest.raises(UserError, match="does not hold speeds of configs"):
        measured(SeT=seconds)


def test_speeds_of_a_group_in_two_files(measured, tmp_path):
    measured(SeT=0.1)
    shutil.copy(tmp_path / "speeds.json", tmp_path / "b.json")
    with pytest.raises(UserError, match="b.json has speeds of mixer, and so has"):
        read_speeds([tmp_path / "speeds.json", tmp_path / "b.json"])


def test_a_name_has_one_colour_in_all_groups(tmp_path, monkeypatch):
    """In whatever place it is there."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    scores = dict(small=dict(a=90, b=80, c=70), large=dict(c=90, b=80, a=70))
    runs = [
        with_curve(make_run(group, name, score, 0), [score / 2, score])
        for group, named in scores.items()
        for name, score in named.items()
    ]
    draw_progress(runs, tmp_path / "progress.png")
    dots = [line for axes in drawn[0].axes[2::3] for line in axes.lines]
    assert len(dots) == 6
    assert len({(line.get_label(), line.get_color()) for line in dots}) == 3


def test_a_rate_whose_score_is_no_number_is_not_the_best():
    scores = {1e-2: float("nan"), 1e-3: 60.0, 1e-4: 55.0}
    assert best_rate(scores) == 1e-3
    assert best_rate(dict(reversed(scores.items()))) == 1e-3
