"""Rows, verdicts and formats of the tables of results."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import Result
from toolkit.model_figures import (
    FIGURES,
    TASKS,
    Claim,
    Computed,
    Model,
    Published,
    measured_metrics,
    read_computed,
    read_published,
    write_computed,
)
from toolkit.model_tables import (
    ABOUT,
    CLEARLY,
    DERIVED,
    claims_table,
    models_table,
    rows_of,
)

RESULTS = Path(__file__).parents[2] / "docs" / "data"


def published(*claims: Claim) -> Published:
    models = dict(
        setformer_t=Model("Ours", "setformer", dict(coco=dict(box_ap=50.0))),
        peer_t=Model("Peer", "peer", dict(coco=dict(params=50, flops=200, box_ap=1.5))),
        other_t=Model("Other", "peer", dict(imagenet=dict(top1=80.0))),
    )
    return Published({}, models, dict(coco=list(claims)), {})


def ours(parameters: float = 45e6, multiply_adds: float = 150e9) -> Computed:
    return Computed("configs/ours.py", round(parameters), round(multiply_adds))


def result(config: str, date: str, tta: bool = False, **metrics: float) -> Result:
    return Result(
        kind="test",
        config=config,
        config_sha256="",
        checkpoint=None,
        checkpoint_sha256=None,
        metrics={name.replace("_", "/", 1): value for name, value in metrics.items()},
        num_parameters=1,
        seed=0,
        tta=tta,
        versions={},
        date=date,
    )


@pytest.mark.parametrize(
    ("claim", "parameters", "holds"),
    [
        (dict(fewer=10), 45e6, "yes"),
        (dict(fewer=10), 45.2e6, "yes"),  # 9.6 %, rounded
        (dict(fewer=10), 45.3e6, "no"),
        (dict(fewer=0), 49.9e6, "yes"),
        (dict(fewer=0), 50e6, "no"),
        (dict(about=True), 50e6 * (1 + 0.99 * ABOUT), "yes"),
        (dict(about=True), 50e6 * (1 - 1.01 * ABOUT), "no"),
        (dict(amount=45), 44.5e6 + 1, "yes"),
        (dict(amount=45), 45.9e6, "yes"),  # cut off
        (dict(amount=45), 46e6, "no"),
        (dict(amount=45), 44.4e6, "no"),
        (dict(says="twice as fast", needs="a V100"), 1, "needs a V100"),
    ],
)
def test_claims_hold_or_do_not(claim, parameters, holds):
    than = "" if "amount" in claim else "peer_t"
    claim = Claim("setformer_t", than, "params", **claim)
    computed = dict(setformer_t=ours(parameters))
    (row,) = claims_table("coco", published(claim), computed).rows
    assert row[-1].text == holds


def test_claims_say_what_is_compared():
    claims = (
        Claim("setformer_t", "peer_t", "flops", fewer=30),
        Claim("setformer_t", "peer_t", "params", about=True),
    )
    computed = dict(setformer_t=ours(parameters=60e6))
    table = claims_table("coco", published(*claims), computed)
    texts = [[cell.text for cell in row] for row in table.rows]
    assert texts == [
        ["Ours: 30 % fewer multiply-adds than Peer (200 G)", "150 G, 25 % fewer", "no"],
        ["Ours: parameters about those of Peer (50 M)", "60.0 M, 20 % more", "no"],
    ]
    (row, _) = claims_table("coco", published(*claims), {}).rows
    assert row[-1].text == "not computed"


@pytest.mark.parametrize(
    ("claim", "parameters", "sentence", "text"),
    [
        (
            dict(than="peer_t", fewer=10),
            (90 - CLEARLY) / 100 * 50e6,
            "Ours: 10 % fewer parameters than Peer (50 M)",
            f"42.5 M, {10 + CLEARLY} % fewer: clearly more than stated",
        ),
        (
            dict(than="peer_t", fewer=10),
            (90 - CLEARLY + 1) / 100 * 50e6,
            "Ours: 10 % fewer parameters than Peer (50 M)",
            f"43.0 M, {9 + CLEARLY} % fewer",
        ),
        (
            dict(than="peer_t"),
            25e6,
            "Ours: fewer parameters than Peer (50 M)",
            "25.0 M, 50 % fewer",
        ),
        (dict(amount=45), 45.4e6, "Ours: 45 M parameters", "45.4 M"),
        (dict(amount=45), 45.6e6, "Ours: 45 M parameters", "45.6 M, 45 M if cut off"),
    ],
)
def test_claims_say_where_ours_departs_though_they_hold(
    claim, parameters, sentence, text
):
    claim = Claim("setformer_t", figure="params", **claim)
    computed = dict(setformer_t=ours(parameters))
    (row,) = claims_table("coco", published(claim), computed).rows
    assert [cell.text for cell in row] == [sentence, text, "yes"]


def test_derived_numbers_are_marked_and_say_from_what():
    data = published()
    figures = dict(box_ap=50.0, mask_ap=45.0, stated_as=dict(mask_ap="Peer + 2"))
    data.models["setformer_t"].figures["coco"] = figures
    table = models_table("coco", rows_of("coco", data, {}), ["Note."])
    assert f"*50.0 / 45.0{DERIVED}*" in table.render("markdown")
    note = (
        f"{DERIVED} Stated only as a difference to a peer: mask AP of Ours as Peer + 2."
    )
    assert table.notes == ["Note.", note]
    (row, _) = csv.DictReader(io.StringIO(table.render("csv")))
    assert row["mask AP, stated"] == "45.0"
    without = models_table("coco", rows_of("coco", data, {}, only=["peer_t"]))
    assert without.notes == [] and DERIVED not in without.render("markdown")


def test_measured_are_the_newest_of_the_config_with_or_without_augmentation():
    name = "configs/upernet_setformer_s.py"
    results = [
        result(name, "2026-01-02", mIoU=31.0),
        result(name, "2026-01-01", mIoU=30.0),
        result(name, "2026-01-01", tta=True, mIoU=32.5),
        result("configs/upernet_setformer_t.py", "2026-01-03", mIoU=99.0),
    ]
    metrics = measured_metrics(TASKS["ade20k"], "s", results)
    assert metrics == dict(miou=31.0, miou_ms=32.5)
    detections = [result("mask_rcnn_setformer_m.py", "", coco_bbox_mAP=0.25)]
    assert measured_metrics(TASKS["coco"], "m", detections) == dict(box_ap=25.0)


def coco_table(measured: bool):
    results = [result("mask_rcnn_setformer_t.py", "", coco_segm_mAP=0.301)]
    rows = rows_of(
        "coco",
        published(),
        dict(setformer_t=ours()),
        results if measured else (),
        dict(peer_t="timm is not installed"),
    )
    return models_table("coco", rows, ["*Legend*."])


@pytest.mark.parametrize("measured", [True, False])
def test_kinds_differ_in_markdown_and_on_the_terminal(measured):
    table = coco_table(measured)
    lines = table.render("markdown").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:4]]
    by_title = [dict(zip(rows[0], row)) for row in rows[2:]]
    kinds = "published", "stated", "measured"
    aps = [[row[f"box AP / mask AP, {kind}"] for kind in kinds] for row in by_title]
    assert aps == [
        ["", "*50.0 / –*", "**– / 30.1**" if measured else "not trained"],
        ["*1.5 / –*", "", ""],
    ]
    sizes = [
        [row[f"parameters, {kind}"] for kind in ("computed", "published")]
        for row in by_title
    ]
    assert sizes == [["45.0 M", ""], ["timm is not installed", "*50 M*"]]
    assert lines[-1] == "*Legend*."
    assert "*" not in table.render("terminal")


def test_csv_has_a_number_a_cell():
    rows = list(csv.DictReader(io.StringIO(coco_table(True).render("csv"))))
    assert [row["model"] for row in rows] == ["Ours", "Peer"]
    assert float(rows[0]["parameters (M), computed"]) == 45
    assert float(rows[0]["multiply-adds (G), computed"]) == 150
    assert float(rows[1]["multiply-adds (G), published"]) == 200
    assert float(rows[0]["box AP, stated"]) == 50
    assert rows[0]["box AP, measured"] == "" != rows[0]["mask AP, measured"]
    assert rows[1]["parameters (M), computed"] == "timm is not installed"


def test_rows_can_be_chosen():
    everything = rows_of("coco", published(), {})
    assert [row.key for row in everything] == ["setformer_t", "peer_t"]
    assert rows_of("coco", published(), {}, only=["peer_t"]) == everything[1:]
    computed = dict(other_t=ours())
    assert [r.key for r in rows_of("coco", published(), computed)][2:] == ["other_t"]


def test_computed_figures_survive_a_file(tmp_path):
    peer = replace(ours(1), backbone=dict(type="Peer", arch="tiny"))
    computed = dict(coco=dict(setformer_t=ours(), peer_t=peer))
    path = tmp_path / "computed.json"
    write_computed(path, computed, dict(torch="2"), "2026-01-01")
    assert read_computed(path) == computed
    with pytest.raises(UserError, match="does not exist; tools/tables.py writes it"):
        read_computed(tmp_path / "other.json")
    with pytest.raises(UserError, match="in a checkout"):
        read_published(tmp_path / "published.yaml")


def test_published_figures_have_sources_and_known_names():
    data = read_published(RESULTS / "published.yaml")
    for model in data.models.values():
        assert model.source in data.sources
        for task, figures in model.figures.items():
            known = {*FIGURES, *TASKS[task].metrics, "source"}
            if model.is_setformer:
                known.add("stated_as")
                assert set(figures.get("stated_as", {})) <= set(figures)
            assert set(figures) <= known, (model.name, task)
            assert figures.get("source", model.source) in data.sources
            assert not (model.is_setformer and set(FIGURES) & set(figures))
    assert set(data.claims) == set(data.notes) == set(TASKS)
    own = {model.source for model in data.models.values()}
    figures = [f for model in data.models.values() for f in model.figures.values()]
    assert own | {f["source"] for f in figures if "source" in f} == set(data.sources)


def test_notes_are_about_models_of_their_table_and_name_them():
    data = read_published(RESULTS / "published.yaml")
    for task, notes in data.notes.items():
        for note, about in notes.items():
            assert about
            for key in about:
                assert task in data.models[key].figures
                name = data.models[key].name
                assert name in note or name.split("-")[0] in note


def test_derived_numbers_are_the_sums_that_they_claim_to_be():
    """But for Swin-T's accuracy, of which others list 0.1 more; a note says so."""
    data = read_published(RESULTS / "published.yaml")
    keys = {model.name: key for key, model in data.models.items()}
    derived = 0
    for model in data.models.values():
        for task, figures in model.figures.items():
            for metric, difference in figures.get("stated_as", {}).items():
                name, _, more = difference.split()
                total = data.models[keys[name]].figures[task][metric] + float(more)
                if difference == "Swin-T + 0.4":
                    assert any("81.3" in note for note in data.notes[task])
                    total += 0.1
                assert figures[metric] == pytest.approx(total), (model.name, metric)
                derived += 1
    assert derived == 6


def test_claims_name_figures_that_are_published():
    data = read_published(RESULTS / "published.yaml")
    for task, claims in data.claims.items():
        for claim in claims:
            assert data.models[claim.model].is_setformer
            if claim.amount is not None:
                assert claim.figure in FIGURES and not claim.than
            elif claim.figure:
                assert data.models[claim.than].figures[task][claim.figure] > 0
            else:
                assert claim.says and claim.needs


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("figure", FIGURES)
def test_counter_agrees_with_what_authors_publish(task, figure):
    """Swin and ConvNeXt, which stand for the counter's conventions.

    Some figures are cut off, not rounded: 28.6 M parameters are published as 28 M.
    """
    data = read_published(RESULTS / "published.yaml")
    computed = read_computed(RESULTS / "computed.json")[task]
    size = dict(params=1e6, flops=1e9)[figure]
    compared = set()
    for key, model in data.models.items():
        stated = model.figures.get(task, {}).get(figure)
        if model.source in ("swin", "convnext") and stated:
            counted = computed[key].amount(figure) / size
            agrees = counted == pytest.approx(stated, rel=0.02)
            assert agrees or int(counted) == stated, key
            compared.add(key)
    assert compared == {f"{peer}_{x}" for peer in ("swin", "convnext") for x in "tsb"}
