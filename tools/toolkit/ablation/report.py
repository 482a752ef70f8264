"""The tables and pictures of an ablation, from its runs."""

import itertools
import math
import os
import statistics
from collections.abc import Iterable, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from setformer_mm.utils.files import save_figure
from setformer_mm.utils.markdown import markdown_table

from .runs import (
    METRICS,
    AblationRun,
    Row,
    comparable_means,
    compare,
    group_runs,
    listed,
    number_of,
)

# The columns of learning curves: a share of the training, and what it is called.
PARTS = {1 / 3: "at a third", 2 / 3: "at two thirds"}
# What a table shows beside the metric that it compares, and what it is called.
COMPANIONS = {"coco/bbox_mAP": ("coco/segm_mAP", "mask mAP")}
# Of learning curves; the light half, each much like a dark one, comes last.
COLORS = colormaps["tab20"].colors[::2] + colormaps["tab20"].colors[1::2]
DOTS = dict(alpha=0.6, markersize=5, markeredgewidth=0)  # one a seed


def markdown(runs: Sequence[AblationRun]) -> str:
    """Tables of an ablation, one a group, and below them how to read them.

    A group of which several learning rates were tried has a second table of these.
    """
    parts = []
    for group, rows in group_runs(runs).items():
        parts.append(_table(group, rows))
        if any(row.tried for row in rows):
            parts.append(_learning_rates(group, rows))
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


def draw_progress(runs: Sequence[AblationRun], path: str | os.PathLike) -> bool:
    """Draw learning curves: a line of three panels for each group that has some.

    The score against the steps of the training, with the range of the seeds, against
    the time that the training took, and at the end against the parameters.

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
    figure = Figure(figsize=(12, 4.2 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 3, squeeze=False, sharey="row")
    # A name has one colour in all groups.
    names = dict.fromkeys(row.name for rows in groups.values() for row in rows)
    colors = dict(zip(names, itertools.cycle(COLORS)))
    for (group, rows), (by_step, by_time, by_size) in zip(groups.items(), panels):
        for row in rows:
            _draw_progress_of(row, colors[row.name], by_step, by_time, by_size)
        by_step.set_title(group, fontsize=10, loc="left")
        by_step.set_ylabel(_display(rows[0].metric)[0])
        by_step.set_xlabel("epochs, or iterations; the band is the range of the seeds")
        by_time.set_xlabel("minutes of training")
        by_size.set_xlabel("million parameters, at the end")
        by_size.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        for axes in (by_step, by_time, by_size):
            axes.grid(alpha=0.3)
    save_figure(figure, path)
    return True


def _draw_progress_of(
    row: Row, color: tuple, by_step: Axes, by_time: Axes, by_size: Axes
) -> None:
    """One row in its three panels."""
    # What all seeds have: a run that was killed may lack a validation.
    curves = [dict(run.curve) for run in row.runs]
    steps = sorted(set.intersection(*map(set, curves)))
    values = [[curve[step] for curve in curves] for step in steps]
    means = [statistics.fmean(of_step) for of_step in values]
    look = dict(color=color, linewidth=2.5 if row.is_baseline else 1.2)
    by_step.plot(steps, means, **look)
    lowest, highest = zip(*((min(v), max(v)) for v in values))
    by_step.fill_between(steps, lowest, highest, color=color, alpha=0.15, linewidth=0)
    seconds = [run.training_seconds for run in row.runs]
    if None not in seconds:
        minutes = statistics.fmean(seconds) / 60
        by_time.plot([step / steps[-1] * minutes for step in steps], means, **look)
    sizes = [run.result.num_parameters / 1e6 for run in row.runs]
    by_size.plot(sizes, row.scores, "o", color=color, label=row.name, **DOTS)


def _table(group: str, rows: list[Row]) -> str:
    metric = rows[0].metric
    label, decimals = _display(metric)
    baseline = next((row for row in rows if row.is_baseline), None)
    header = [group, "parameters", "multiply-adds", label, "deviation", "each seed"]
    companion, title = COMPANIONS.get(metric, (None, None))
    if companion:
        header.append(title)
    shares = [share for share in PARTS if all(_means_after(rows, share))]
    header += [PARTS[share] for share in shares]
    is_timed = all(run.images_per_second for row in rows for run in row.runs)
    header += ["ms an image"] * is_timed
    if baseline:
        header.append(f"against {baseline.name}")
    of_a_seed = 1 if "%" in label else decimals
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
            ", ".join(f"{score:.{of_a_seed}f}" for score in row.scores),
        ]
        if companion:
            values = [run.result.metrics.get(companion) for run in row.runs]
            mean = None if None in values else statistics.fmean(values)
            line.append("–" if mean is None else f"{mean:.{decimals}f}")
        for share in shares:
            (mean,) = _means_after([row], share)
            line.append(f"{mean:.{decimals}f}")
        if is_timed:
            speeds = [run.images_per_second for run in row.runs]
            line.append(f"{1000 / statistics.median(speeds):.2f}")
        if baseline:
            line.append("" if row.is_baseline else _against(row, baseline))
        lines.append(line)
    return markdown_table(header, lines)


def _means_after(rows: Sequence[Row], share: float) -> list[float | None]:
    """Mean scores of rows after a share of the training, None if one is missing."""
    scores = [[run.score_after(share) for run in row.runs] for row in rows]
    return [None if None in of_row else statistics.fmean(of_row) for of_row in scores]


def _learning_rates(group: str, rows: list[Row]) -> str:
    """The score of each learning rate with the first seed, the best one bold."""
    label, decimals = _display(rows[0].metric)
    rates = sorted({rate for row in rows for rate in row.tried})
    lines = []
    for row in rows:
        cells = [
            f"{row.tried[rate]:.{decimals}f}" if rate in row.tried else "–"
            for rate in rates
        ]
        if row.tried:
            best = rates.index(row.runs[0].learning_rate)
            cells[best] = f"**{cells[best]}**"
        lines.append([row.name, *cells])
    header = [f"{group}: {label} by learning rate", *(f"{rate:g}" for rate in rates)]
    return markdown_table(header, lines)


def _against(row: Row, baseline: Row) -> str:
    """The difference of means, bold if it is more than chance."""
    difference, is_significant = compare(row, baseline)
    text = f"{difference:+.{_display(row.metric)[1]}f}".replace("-", "−")
    return f"**{text}**" if is_significant else text


def _legend(runs: Sequence[AblationRun]) -> str:
    sentences = [
        "Means over seeds, their standard deviation (n - 1), and the value of each "
        "seed, all on the validation split after the last iteration. Rows are in the "
        "order of their means over the seeds that all of a table have.",
        "Differences are of the seeds that both rows have, and bold where a t-test "
        "tells them from chance at the 5 % level (Welch's; of a single seed Student's, "
        "with the deviation of the baseline's seeds); others may be chance, and of "
        "twenty that are chance about one is bold.",
    ]
    if any(run.learning_rate for run in runs):
        sentences.append(
            "Learning rates were tried with the first seed, and the best one of each "
            "row was trained with the others."
        )
    versions = [run.result.versions for run in runs]
    names = dict.fromkeys(name for known in versions for name in known)
    used = "; ".join(
        f"{name} {listed({known[name] for known in versions if name in known})}"
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


def _is_numeric(rows: list[Row]) -> bool:
    """Whether a group compares values of a number, perhaps beside its absence."""
    return sum(math.isfinite(number_of(row.name)) for row in rows) > 1
