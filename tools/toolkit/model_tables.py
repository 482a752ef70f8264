"""The three tables of results, made of :mod:`toolkit.model_figures`.

``tools/tables.py`` computes and prints; ``tools/update_docs.py`` writes documents from
what lies in ``docs/data``.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from setformer_mm.utils.markdown import markdown_table, three_digits
from setformer_mm.utils.results import Result

from .model_figures import (
    FIGURES,
    TASKS,
    Claim,
    Computed,
    Metric,
    Model,
    Published,
    measured_metrics,
)

FORMATS = ("terminal", "markdown", "csv")
# Two sizes are "about" the same if they differ by no more than this share.
ABOUT = 0.05
# Ours is smaller by clearly more than stated from so many percentage points on.
CLEARLY = 5
HOLDS, FAILS = "yes", "no"
LEGEND = (
    "Parameters and multiply-adds of the whole model are *computed* here, beside those "
    "that the authors of a model, or others where a note says so, *published*. "
    "*Stated* is the accuracy in SeTformer's paper, which nothing here confirms; "
    '*measured* is what runs of these configs reached. "–" stands for a model that '
    "neither mmpretrain nor timm ships, and in a pair of accuracies for one that is "
    "not known."
)
# Marks a number that is the sum of a peer's and a stated difference.
DERIVED = "†"


@dataclass(frozen=True)
class Row:
    """All that is known of a model in one task.

    Attributes:
        why_not: Why nothing is computed, if so.
        measured: Metrics in percent, those that a run has.
    """

    key: str
    model: Model
    figures: dict
    computed: Computed | None
    why_not: str
    measured: dict[str, float]


class Cell(NamedTuple):
    """Numbers (or a reason for their absence) with their text."""

    values: tuple[float | str | None, ...]
    text: str
    kind: str = ""


@dataclass
class Table:
    """Cells under titles, each with one title a value for CSV."""

    titles: list[str]
    value_titles: list[tuple[str, ...]]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    def render(self, form: str) -> str:
        """The table as text in one of :data:`FORMATS`; in CSV without notes."""
        if form == "csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([title for titles in self.value_titles for title in titles])
            for row in self.rows:
                writer.writerow([value for cell in row for value in cell.values])
            return text.getvalue().rstrip("\n")
        show = _emphasised if form == "markdown" else _plain
        rows = [[show(cell) for cell in row] for row in self.rows]
        notes = self.notes
        if form == "terminal":
            notes = [note.replace("*", "") for note in notes]
        return "\n\n".join([markdown_table(self.titles, rows), *notes])


def rows_of(
    name: str,
    published: Published,
    computed: Mapping[str, Computed],
    results: Sequence[Result] = (),
    missing: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
) -> list[Row]:
    """Gather what is known of the models of a task, in the order of ``published``.

    Args:
        name: one of :data:`TASKS`.
        published: what others say.
        computed: by model, those that could be.
        results: of all runs.
        missing: why others could not.
        only: keys of the models to gather; all by default.
    """
    rows = []
    for key, model in published.models.items():
        if only is not None and key not in only:
            continue
        if name not in model.figures and key not in computed:
            continue
        variant = key.removeprefix("setformer_")
        measured = {}
        if model.is_setformer:
            measured = measured_metrics(TASKS[name], variant, results)
        rows.append(
            Row(
                key=key,
                model=model,
                figures=model.figures.get(name, {}),
                computed=computed.get(key),
                why_not=(missing or {}).get(key, "–"),
                measured=measured,
            )
        )
    return rows


def models_table(name: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> Table:
    """The table of a task, with a note of its own on numbers that are derived."""
    metrics = TASKS[name].metrics
    metric_titles = [metric.title for metric in metrics.values()]
    titles, value_titles = ["model"], [("model",)]
    for kind in ("computed", "published"):
        for title, unit in FIGURES.values():
            titles.append(f"{title}, {kind}")
            value_titles.append((f"{title} ({unit}), {kind}",))
    for kind in ("published", "stated", "measured"):
        titles.append(f"{' / '.join(metric_titles)}, {kind}")
        value_titles.append(tuple(f"{title}, {kind}" for title in metric_titles))
    table = Table(titles, value_titles, [], [*notes, *_derived_note(metrics, rows)])
    for row in rows:
        cells = [Cell((row.model.name,), row.model.name)]
        for figure, (_, unit) in FIGURES.items():
            if row.computed is None:
                cells.append(Cell((row.why_not,), row.why_not))
            else:
                amount = row.computed.amount(figure) / _SIZES[unit]
                cells.append(Cell((amount,), f"{three_digits(amount)} {unit}"))
        for figure, (_, unit) in FIGURES.items():
            number = row.figures.get(figure)
            text = "" if number is None else f"{number:g} {unit}"
            cells.append(Cell((number,), text, "published"))
        kind = "stated" if row.model.is_setformer else "published"
        for column in ("published", "stated"):
            figures = row.figures if kind == column else {}
            cells.append(_metrics_cell(metrics, figures, column))
        if row.model.is_setformer and not row.measured:
            cells.append(Cell(("not trained",) * len(metrics), "not trained"))
        else:
            cells.append(_metrics_cell(metrics, row.measured, "measured"))
        table.rows.append(cells)
    return table


def claims_table(
    name: str, published: Published, computed: Mapping[str, Computed]
) -> Table:
    """What the paper states of size, cost and speed, beside ours, and whether it holds.

    Ours is compared with the peer's published figure, as the paper did; a percentage
    holds if ours, rounded to whole percents, is no smaller. An amount holds if ours is
    the same once rounded or, as authors do at times, cut off.
    """
    titles = ["stated by the paper", "ours", "holds"]
    table = Table(titles, [(title,) for title in titles], [])
    for claim in published.claims.get(name, ()):
        cells = [_sentence(name, claim, published)]
        if claim.needs:
            cells += ["–", f"needs {claim.needs}"]
        elif claim.model not in computed:
            cells += ["–", "not computed"]
        else:
            cells += _check(name, claim, published, computed[claim.model])
        kind = "failing" if cells[-1] == FAILS else ""
        *others, verdict = (Cell((text,), text) for text in cells)
        table.rows.append([*others, verdict._replace(kind=kind)])
    return table


_SIZES = dict(M=1e6, G=1e9)


def _sentence(name: str, claim: Claim, published: Published) -> str:
    ours = published.models[claim.model]
    if claim.says:
        return f"{ours.name}: {claim.says}"
    title, unit = FIGURES[claim.figure]
    if claim.amount is not None:
        return f"{ours.name}: {claim.amount} {unit} {title}"
    peer = published.models[claim.than]
    theirs = f"{peer.name} ({peer.figures[name][claim.figure]:g} {unit})"
    if claim.about:
        return f"{ours.name}: {title} about those of {theirs}"
    percent = f"{claim.fewer} % " if claim.fewer else ""
    return f"{ours.name}: {percent}fewer {title} than {theirs}"


def _check(
    name: str, claim: Claim, published: Published, computed: Computed
) -> tuple[str, str]:
    """Ours in words, and whether the claim holds."""
    _, unit = FIGURES[claim.figure]
    ours = computed.amount(claim.figure) / _SIZES[unit]
    text = f"{three_digits(ours)} {unit}"
    if claim.amount is not None:
        cut_off = int(ours) == claim.amount != round(ours)
        holds = cut_off or round(ours) == claim.amount
        note = f", {claim.amount} {unit} if cut off" if cut_off else ""
        return f"{text}{note}", HOLDS if holds else FAILS
    share = ours / published.models[claim.than].figures[name][claim.figure]
    percent = round(100 * (1 - share))
    text += f", {abs(percent)} % {'fewer' if percent >= 0 else 'more'}"
    if claim.fewer and percent >= claim.fewer + CLEARLY:
        text += ": clearly more than stated"
    if claim.about:
        holds = abs(share - 1) <= ABOUT
    else:
        holds = share < 1 and percent >= claim.fewer
    return text, HOLDS if holds else FAILS


def _metrics_cell(metrics: Mapping[str, Metric], known: Mapping, kind: str) -> Cell:
    values = tuple(known.get(key) for key in metrics)
    if all(value is None for value in values):
        return Cell(values, "", kind)
    # As many digits as were published, and one after the point of what we measured.
    digits = ".1f" if kind == "measured" else ""
    texts = ["–" if value is None else f"{value:{digits}}" for value in values]
    derived = known.get("stated_as", {})
    texts = [f"{x}{DERIVED}" if key in derived else x for key, x in zip(metrics, texts)]
    return Cell(values, " / ".join(texts), kind)


def _derived_note(metrics: Mapping[str, Metric], rows: Sequence[Row]) -> list[str]:
    """One sentence on the numbers that :data:`DERIVED` marks, if there are any."""
    parts = [
        f"{metrics[key].title} of {row.model.name} as {difference}"
        for row in rows
        for key, difference in row.figures.get("stated_as", {}).items()
    ]
    if not parts:
        return []
    return [f"{DERIVED} Stated only as a difference to a peer: {', '.join(parts)}."]


def _plain(cell: Cell) -> str:
    return cell.text


def _emphasised(cell: Cell) -> str:
    """Italics for what others say, bold for what was measured and for what fails."""
    marks = dict(published="*", stated="*", measured="**", failing="**")
    mark = marks.get(cell.kind, "")
    return f"{mark}{cell.text}{mark}" if cell.text else ""
