"""What an ablation measured: its runs as data, and the table and picture of them.

A config says where it stands in the comparison, apart from what it computes::

    ablation = dict(group="epsilon", name=0.05)

and which row of a group the others are compared with; configs inherit it::

    ablation = dict(
        group="token mixer",
        name="SeT",
        baselines={"token mixer": "SeT", "epsilon": 0.1},
    )

The config that carries the name of its group's baseline, as this one does, stands for
the baseline in all the groups.
"""

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import Config
from scipy import stats

from .errors import UserError
from .files import save_figure, write_atomically
from .json_text import json_text
from .markdown import markdown_table
from .results import Result

# What is compared, by what the evaluator reports: the axis, and the decimals of a mean.
METRICS = {
    "accuracy/top1": ("top-1 accuracy (%)", 2),
    "mIoU": ("mIoU (%)", 2),
    "coco/bbox_mAP": ("box mAP", 3),
}
DOTS = dict(alpha=0.6, markersize=5, markeredgewidth=0)  # one a seed


@dataclass(frozen=True)
class AblationRun:
    """One config, trained with one seed.

    Attributes:
        rows: where it stands: ``{group: name}``.
        baseline_of: the groups whose other rows are compared with this config.
        multiply_adds: of the whole model for one validation image; None if they cannot
            be counted.
        seconds: of training, validations and start-up included.
        result: of the validation at the end.
    """

    rows: dict[str, str]
    baseline_of: list[str]
    multiply_adds: int | None
    seconds: float
    result: Result

    @property
    def metric(self) -> str:
        """The metric to compare: one of :data:`METRICS`, or else the first."""
        names = list(self.result.metrics)
        return next((name for name in METRICS if name in names), names[0])

    @property
    def score(self) -> float:
        """Its value, as the host library reports it; NaN if that is no number."""
        score = self.result.metrics[self.metric]
        return math.nan if score is None else score


@dataclass(frozen=True)
class Row:
    """The runs of one config in a group.

    Attributes:
        name: of the config in this group.
        is_baseline: whether the other rows are compared with this one.
        runs: in the order of their seeds.
    """

    name: str
    is_baseline: bool
    runs: list[AblationRun]

    @property
    def metric(self) -> str:
        return self.runs[0].metric

    @property
    def scores(self) -> list[float]:
        return [run.score for run in self.runs]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def seeds(self) -> set[int]:
        return {run.result.seed for run in self.runs}

    def scores_of(self, seeds: set[int]) -> list[float]:
        """The scores of some seeds; of all if it has none of them."""
        chosen = [run.score for run in self.runs if run.result.seed in seeds]
        return chosen or self.scores


def place_in_ablation(cfg: Config) -> tuple[dict[str, str], list[str]]:
    """Read a config's field ``ablation``.

    Returns:
        ``rows`` and ``baseline_of`` of :class:`AblationRun`. A config without the field
        stands in the group "config" under the name of its file.

    Raises:
        UserError: if the field lacks group or name.
    """
    field = cfg.get("ablation")
    if field is None:
        return {"config": Path(cfg.filename).stem}, []
    if not {"group", "name"} <= field.keys() <= {"group", "name", "baselines"}:
        raise UserError(
            "`ablation` of a config has the keys group, name and perhaps baselines, "
            f"got {sorted(field)} in {cfg.filename}"
        )
    group, name = field["group"], str(field["name"])
    baselines = {g: str(n) for g, n in field.get("baselines", {}).items()}
    if baselines.get(group) == name:
        return baselines, list(baselines)
    return {group: name}, []


def write_runs(path: str | os.PathLike, runs: Iterable[AblationRun]) -> None:
    """Write runs as JSON, atomically."""
    content = [dataclasses.asdict(run) for run in runs]
    write_atomically(path, json_text(content, indent=2))


def read_runs(paths: Iterable[str | os.PathLike]) -> list[AblationRun]:
    """Read what :func:`write_runs` wrote, from several files.

    Returns:
        The runs, each once.

    Raises:
        UserError: if a file does not exist or does not hold runs.
    """
    runs = {}
    for path in paths:
        try:
            for content in json.loads(Path(path).read_text(encoding="utf-8")):
                result = Result(**content.pop("result"))
                if not result.metrics:
                    raise ValueError("a run without metrics")
                run = AblationRun(**content, result=result)
                runs[result.config, result.config_sha256, result.seed] = run
        except FileNotFoundError as error:
            raise UserError(f"the runs {path} do not exist") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} does not hold runs of an ablation") from error
    return list(runs.values())


def group_runs(runs: Iterable[AblationRun]) -> dict[str, list[Row]]:
    """Sort runs into groups and rows.

    Rows whose names are numbers come in their order, others by
    :func:`comparable_means`, the best first. A group in which nothing is compared with
    the baseline is left out, unless all are like that.

    Raises:
        UserError: if runs of one row are not of one config, or a group has several
            metrics.
    """
    found: dict[str, dict[str, list[AblationRun]]] = {}
    for run in sorted(runs, key=lambda run: run.result.seed):
        for group, name in run.rows.items():
            found.setdefault(group, {}).setdefault(name, []).append(run)

    groups = {}
    for group, names in found.items():
        rows = []
        for name, members in names.items():
            configs = {(run.result.config, run.result.config_sha256) for run in members}
            if len(configs) > 1:
                raise UserError(
                    f"all runs of {name!r} in {group!r} must be of one config in one "
                    f"version, got {len(configs)}: {_listed(c for c, _ in configs)}"
                )
            is_baseline = group in members[0].baseline_of
            rows.append(Row(name, is_baseline, members))
        if len(metrics := {run.metric for row in rows for run in row.runs}) > 1:
            raise UserError(
                f"a group compares one metric, got {_listed(metrics)} in {group!r}"
            )
        means = comparable_means(rows)
        rows.sort(key=lambda row: (_number(row.name), -means[row.name]))
        groups[group] = rows
    compared = {
        group: rows
        for group, rows in groups.items()
        if len(rows) > 1 or not rows[0].is_baseline
    }
    return compared or groups


def comparable_means(rows: Sequence[Row]) -> dict[str, float]:
    """Means over the seeds that all rows have, by name."""
    seeds = set.intersection(*(row.seeds for row in rows))
    return {row.name: statistics.fmean(row.scores_of(seeds)) for row in rows}


def compare(row: Row, baseline: Row) -> tuple[float, bool]:
    """Compare a row with the baseline over the seeds that both have.

    A seed makes some runs better than others in all rows, so that one which a row lacks
    would be compared with nothing.

    Returns:
        The difference of the means, and whether it is more than chance makes it, at the
        5 % level: by Welch's t-test, or where a side has a single seed by Student's,
        with the deviation that all seeds of the row or the baseline have. False if
        neither has several.
    """
    scores = row.scores_of(baseline.seeds)
    others = baseline.scores_of(row.seeds)
    difference = statistics.fmean(scores) - statistics.fmean(others)
    known = max(row.scores, baseline.scores, key=len)
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    if min(len(scores), len(others)) > 1:
        chance = stats.ttest_ind(scores, others, equal_var=False).pvalue
    elif deviation > 0:
        error = deviation * math.sqrt(1 / len(scores) + 1 / len(others))
        chance = 2 * stats.t.sf(abs(difference) / error, len(known) - 1)
    else:
        chance = 1.0
    return difference, bool(chance < 0.05)


def markdown(runs: Sequence[AblationRun]) -> str:
    """Tables of an ablation, one a group, and below them how to read them."""
    groups = group_runs(runs)
    parts = [_table(group, rows) for group, rows in groups.items()]
    return "\n\n".join([*parts, _legend(runs)]) + "\n"


def draw(runs: Sequence[AblationRun], path: str | os.PathLike) -> None:
    """Draw an ablation as a picture.

    Groups of names, the largest first, get a line a config and a dot a seed; groups of
    numbers a panel each, with the metric against the number. One metric has one scale
    in all of them.
    """
    groups = group_runs(runs)
    curves = {g: rows for g, rows in groups.items() if _is_numeric(rows)}
    by_size = sorted(groups.items(), key=lambda item: -len(item[1]))
    dots = {g: rows for g, rows in by_size if g not in curves}

    columns = max(1, min(4, len(curves)))
    num_lines = math.ceil(len(curves) / columns)
    heights = [0.9 + 0.3 * len(rows) for rows in dots.values()] + [2.5] * num_lines
    figure = Figure(figsize=(9, 0.3 + sum(heights)), layout="constrained")
    figure.suptitle(
        "A dot a seed, a line the mean of the seeds that all rows have. "
        "Red: the baseline, the range of its seeds",
        fontsize=10,
    )
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    shared: dict[str, Axes] = {}
    for line, (group, rows) in enumerate(dots.items()):
        metric = rows[0].metric
        axes = figure.add_subplot(grid[line, :], sharex=shared.get(metric))
        shared.setdefault(metric, axes)
        peers = [r for others in dots.values() for r in others if r.metric == metric]
        _draw_dots(axes, group, rows, far_below(s for r in peers for s in r.scores))
    shared.clear()
    for i, (group, rows) in enumerate(curves.items()):
        metric = rows[0].metric
        place = grid[len(dots) + i // columns, i % columns]
        axes = figure.add_subplot(place, sharey=shared.get(metric))
        shared.setdefault(metric, axes)
        _draw_curve(axes, group, rows)
    save_figure(figure, path)


def _table(group: str, rows: list[Row]) -> str:
    metric = rows[0].metric
    label, decimals = _display(metric)
    baseline = next((row for row in rows if row.is_baseline), None)
    header = [group, "parameters", "multiply-adds", label, "deviation", "each seed"]
    if baseline:
        header.append(f"against {baseline.name}")
    lines = []
    for row in rows:
        run = row.runs[0]
        spread = "–"
        if len(row.runs) > 1:
            spread = f"{statistics.stdev(row.scores):.{decimals}f}"
        operations = run.multiply_adds
        line = [
            f"**{row.name}**" if row.is_baseline else row.name,
            f"{run.result.num_parameters / 1e6:.2f} M",
            "–" if operations is None else _amount(operations),
            f"{row.mean:.{decimals}f}",
            spread,
            ", ".join(f"{score:.{max(decimals - 1, 1)}f}" for score in row.scores),
        ]
        if baseline:
            line.append("" if row.is_baseline else _against(row, baseline))
        lines.append(line)
    return markdown_table(header, lines)


def _against(row: Row, baseline: Row) -> str:
    """The difference of means, bold if it is more than chance."""
    difference, is_significant = compare(row, baseline)
    text = f"{difference:+.{_display(row.metric)[1]}f}".replace("-", "−")
    return f"**{text}**" if is_significant else text


def _legend(runs: Sequence[AblationRun]) -> str:
    sentences = [
        "Means over seeds, their standard deviation (n - 1), and the value of each "
        "seed, all on the validation split after the last iteration.",
        "Differences are of the seeds that both rows have, and bold where a t-test "
        "tells them from chance at the 5 % level (Welch's; of a single seed Student's, "
        "with the deviation of the baseline's seeds); others may be chance, and of "
        "twenty that are chance about one is bold.",
    ]
    versions = [run.result.versions for run in runs]
    names = dict.fromkeys(name for known in versions for name in known)
    used = "; ".join(
        f"{name} {_listed({known[name] for known in versions if name in known})}"
        for name in names
    )
    dates = sorted({run.result.date[:10] for run in runs})
    minutes = sum(run.seconds for run in runs) / 60
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    sentences.append(
        f"{len(runs)} runs, {minutes:.0f} min of training in all; {days}; {used}."
    )
    return "\n".join(sentences)


def far_below(scores: Iterable[float]) -> float:
    """The largest of a few scores so low that the others would be drawn as one heap.

    They are at most a quarter of all, below a gap wider than half of the whole range.

    Returns:
        Minus infinity if there are none.
    """
    scores = sorted(scores)
    for low, high in zip(scores[: len(scores) // 4], scores[1:]):
        if high - low > (scores[-1] - scores[0]) / 2:
            return low
    return -math.inf


def _draw_dots(axes: Axes, group: str, rows: list[Row], out_of_range: float) -> None:
    """A line a config, the best on top; arrows point at scores out of range."""
    rows, means = rows[::-1], comparable_means(rows)
    for y, row in enumerate(rows):
        color = _color(row)
        if row.mean <= out_of_range:
            text = f"\N{BLACK LEFT-POINTING SMALL TRIANGLE} {row.mean:.3g}"
            place = axes.get_yaxis_transform()
            axes.text(0.01, y, text, transform=place, color=color, va="center")
            continue
        axes.plot(row.scores, [y] * len(row.scores), "o", color=color, **DOTS)
        axes.plot([means[row.name]] * 2, [y - 0.3, y + 0.3], color=color, linewidth=2)
        if row.is_baseline:
            axes.axvspan(min(row.scores), max(row.scores), color=color, alpha=0.1, lw=0)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(_display(rows[0].metric)[0])
    axes.set_title(group, fontsize=10, loc="left")
    axes.grid(alpha=0.3, axis="x")


def _draw_curve(axes: Axes, group: str, rows: list[Row]) -> None:
    """The metric against a number, whose values are drawn at equal distances."""
    axes.plot([*comparable_means(rows).values()], "-", color="tab:blue", linewidth=1)
    axes.set_xticks(range(len(rows)), [row.name for row in rows])
    for x, row in enumerate(rows):
        color = _color(row)
        axes.plot([x] * len(row.scores), row.scores, "o", color=color, **DOTS)
        if row.is_baseline:
            axes.axhspan(min(row.scores), max(row.scores), color=color, alpha=0.1, lw=0)
            axes.get_xticklabels()[x].set_color(color)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_xlabel(group)
    axes.set_ylabel(_display(rows[0].metric)[0])
    axes.label_outer()
    axes.grid(alpha=0.3, axis="y")


def _color(row: Row) -> str:
    return "tab:red" if row.is_baseline else "tab:blue"


def _amount(operations: int) -> str:
    giga = operations / 1e9
    return f"{giga:.2f} G" if giga >= 1 else f"{giga * 1000:.1f} M"


def _display(metric: str) -> tuple[str, int]:
    return METRICS.get(metric, (metric, 3))


def _number(name: str) -> float:
    """A name as a number, infinity if it is none."""
    try:
        return float(name)
    except ValueError:
        return math.inf


def _is_numeric(rows: list[Row]) -> bool:
    """Whether a group compares values of a number, perhaps beside its absence."""
    return sum(math.isfinite(_number(row.name)) for row in rows) > 1


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
