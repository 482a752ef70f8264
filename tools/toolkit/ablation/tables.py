"""The tables of an ablation, from its runs."""

import math
import statistics
from collections.abc import Sequence

from setformer_mm.utils.markdown import markdown_table

from .runs import AblationRun, Row, compare, display_of, group_runs, listed
from .speeds import Speeds, speeds_of_runs

# The columns of learning curves: a share of the training, and what it is called.
PARTS = {1 / 3: "at a third", 2 / 3: "at two thirds"}
# What a table shows beside the metric that it compares, and what it is called.
COMPANIONS = {"coco/bbox_mAP": ("coco/segm_mAP", "mask mAP")}


def markdown(runs: Sequence[AblationRun], speeds: Speeds | None = None) -> str:
    """Tables of an ablation, one a group, and below them how to read them.

    A group of which several learning rates were tried has a second table of these.

    Args:
        runs: of one or more groups.
        speeds: those of the runs themselves if None.
    """
    parts, machines, is_timed = [], {}, False
    groups = group_runs(runs)
    speeds = speeds or speeds_of_runs(groups)
    for group, rows in groups.items():
        seconds = speeds.of(group, rows)
        is_timed |= seconds is not None
        parts.append(_table(group, rows, seconds))
        if any(row.tried for row in rows):
            parts.append(_learning_rates(group, rows))
        if seconds and group in speeds.machines:
            machines[speeds.machines[group]] = None
    legend = _legend(runs)
    if machines:
        legend += (
            f"\nTimes of an image are of {speeds.what} with random weights, side by "
            f"side: {' '.join(machines)}"
        )
    elif is_timed:
        legend += (
            "\nTimes of an image are those of the trainings, which compare as far as "
            "each ran alone on the same machine."
        )
    return "\n\n".join([*parts, legend]) + "\n"


def _table(group: str, rows: list[Row], seconds: dict[str, float] | None) -> str:
    metric = rows[0].metric
    label, decimals = display_of(metric)
    baseline = next((row for row in rows if row.is_baseline), None)
    header = [group, "parameters", "multiply-adds", label, "deviation", "each seed"]
    companion, title = COMPANIONS.get(metric, (None, None))
    if companion:
        header.append(title)
    shares = [share for share in PARTS if all(_means_after(rows, share))]
    header += [PARTS[share] for share in shares]
    header += ["ms an image"] * bool(seconds)
    if baseline:
        header.append(f"against {baseline.name}")
    of_a_seed = 1 if "%" in label else decimals
    lines = []
    for row in rows:
        run = row.runs[0]
        spread = math.nan
        if len(row.runs) > 1 and not math.isnan(row.mean):
            spread = statistics.stdev(row.scores)
        operations = run.multiply_adds
        line = [
            f"**{row.name}**" if row.is_baseline else row.name,
            f"{run.result.num_parameters / 1e6:.2f} M",
            "–" if operations is None else _amount(operations),
            _number(row.mean, decimals),
            _number(spread, decimals),
            ", ".join(_number(score, of_a_seed) for score in row.scores),
        ]
        if companion:
            values = [run.result.metrics.get(companion) for run in row.runs]
            mean = None if None in values else statistics.fmean(values)
            line.append("–" if mean is None else f"{mean:.{decimals}f}")
        for share in shares:
            (mean,) = _means_after([row], share)
            line.append(f"{mean:.{decimals}f}")
        if seconds:
            line.append(f"{1000 * seconds[row.name]:.2f}")
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
    label, decimals = display_of(rows[0].metric)
    rates = sorted({rate for row in rows for rate in row.tried})
    lines = []
    for row in rows:
        cells = [_number(row.tried.get(rate, math.nan), decimals) for rate in rates]
        if row.tried:
            best = rates.index(row.runs[0].learning_rate)
            cells[best] = f"**{cells[best]}**"
        lines.append([row.name, *cells])
    header = [f"{group}: {label} by learning rate", *(f"{rate:g}" for rate in rates)]
    return markdown_table(header, lines)


def _against(row: Row, baseline: Row) -> str:
    """The difference of means, bold if it is more than chance."""
    difference, is_significant = compare(row, baseline)
    text = _number(difference, display_of(row.metric)[1], "+").replace("-", "−")
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


def _number(value: float, decimals: int, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.{decimals}f}"


def _amount(operations: int) -> str:
    giga = operations / 1e9
    return f"{giga:.2f} G" if giga >= 1 else f"{giga * 1000:.1f} M"
