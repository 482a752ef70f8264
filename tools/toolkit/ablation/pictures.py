"""The pictures of an ablation, from its runs."""

import itertools
import math
import os
import statistics
from collections.abc import Iterable, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from setformer_mm.utils.files import save_figure

from .runs import (
    AblationRun,
    Row,
    comparable_means,
    display_of,
    group_runs,
    number_of,
)
from .speeds import Speeds, speeds_of_runs

# Of learning curves; the light half, each much like a dark one, comes last.
COLORS = colormaps["tab20"].colors[::2] + colormaps["tab20"].colors[1::2]
DOTS = dict(alpha=0.6, markersize=5, markeredgewidth=0)  # one a seed


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


def draw_progress(
    runs: Sequence[AblationRun], path: str | os.PathLike, speeds: Speeds | None = None
) -> bool:
    """Draw learning curves: a line of three panels for each group that has some.

    The score against the steps of the training, with the range of the baseline's seeds
    (those of all rows would hide each other), against the time that it takes where it
    is known of all rows, and at the end against the parameters.

    Args:
        runs: of one or more groups.
        path: of the picture.
        speeds: those of the runs themselves if None.

    Returns:
        Whether there were any curves; if not, nothing is written.
    """
    groups = {
        group: rows
        for group, rows in group_runs(runs).items()
        if all(run.curve for row in rows for run in row.runs)
    }
    if not groups:
        return False
    speeds = speeds or speeds_of_runs(groups)
    figure = Figure(figsize=(12, 4.2 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 3, squeeze=False, sharey="row")
    # A name has one colour in all groups.
    names = dict.fromkeys(row.name for rows in groups.values() for row in rows)
    colors = dict(zip(names, itertools.cycle(COLORS)))
    for (group, rows), (by_step, by_time, by_size) in zip(groups.items(), panels):
        seconds = speeds.of(group, rows)
        is_timed = seconds and all(run.images for row in rows for run in row.runs)
        for row in rows:
            look = dict(color=colors[row.name], linewidth=2.5 if row.is_baseline else 1)
            steps, means = _draw_curve_of(row, by_step, look)
            if is_timed:
                images = statistics.fmean(run.images for run in row.runs)
                minutes = images * seconds[row.name] / 60
                times = [step / steps[-1] * minutes for step in steps]
                by_time.plot(times, means, **look)
            sizes = [run.result.num_parameters / 1e6 for run in row.runs]
            dots = dict(color=colors[row.name], label=row.name) | DOTS
            by_size.plot(sizes, row.scores, "o", **dots)
        baseline = next((row.name for row in rows if row.is_baseline), None)
        title = f"{group} (band: seeds of {baseline})" if baseline else group
        by_step.set_title(title, fontsize=10, loc="left")
        by_step.set_ylabel(display_of(rows[0].metric)[0])
        by_step.set_xlabel("epochs or iterations")
        by_time.set_xlabel(f"minutes of {speeds.what}")
        if not is_timed:
            by_time.set_xlabel("time not measured")
            by_time.set_xticks([])
        by_size.set_xlabel("million parameters, at the end")
        by_size.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        for axes in (by_step, by_time, by_size):
            axes.grid(alpha=0.3)
    save_figure(figure, path)
    return True


def _draw_curve_of(row: Row, axes: Axes, look: dict) -> tuple[list, list[float]]:
    """Draw the mean of a row's seeds, and of the baseline's their range.

    Returns:
        The steps at which all seeds were validated, for a run that was killed may lack
        a validation, and the means there.
    """
    curves = [dict(run.curve) for run in row.runs]
    steps = sorted(set.intersection(*map(set, curves)))
    values = [[curve[step] for curve in curves] for step in steps]
    means = [statistics.fmean(of_step) for of_step in values]
    axes.plot(steps, means, **look)
    if row.is_baseline:
        lowest, highest = zip(*((min(v), max(v)) for v in values))
        axes.fill_between(
            steps, lowest, highest, color=look["color"], alpha=0.25, linewidth=0
        )
    return steps, means


def far_below(scores: Iterable[float]) -> float:
    """The largest of a few scores so low that the others would be drawn as one heap.

    They are at most a quarter of all, below a gap wider than half of the whole range.

    Returns:
        Minus infinity if there are none.
    """
    scores = sorted(score for score in scores if not math.isnan(score))
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
    axes.set_xlabel(display_of(rows[0].metric)[0])
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
    axes.set_ylabel(display_of(rows[0].metric)[0])
    axes.label_outer()
    axes.grid(alpha=0.3, axis="y")


def _color(row: Row) -> str:
    return "tab:red" if row.is_baseline else "tab:blue"


def _is_numeric(rows: list[Row]) -> bool:
    """Whether a group compares values of a number, perhaps beside its absence."""
    return sum(math.isfinite(number_of(row.name)) for row in rows) > 1
