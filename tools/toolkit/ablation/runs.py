"""What an ablation measured: its runs as data, and how they compare."""

import dataclasses
import json
import math
import os
import statistics
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scipy import stats

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.json_text import json_text
from setformer_mm.utils.results import Result

from .curves import Curve
from .places import Place, require_own_rows

# What is compared, by what the evaluator reports: the axis, and the decimals of a mean.
METRICS = {
    "accuracy/top1": ("top-1 accuracy (%)", 2),
    "mIoU": ("mIoU (%)", 2),
    "coco/bbox_mAP": ("box mAP", 3),
}


@dataclass(frozen=True)
class AblationRun:
    """One config, trained with one seed.

    Attributes:
        rows: see :class:`~toolkit.ablation.places.Place`.
        baseline_of: likewise.
        multiply_adds: of the whole model for one validation image; None if they cannot
            be counted.
        seconds: of training, validations and start-up included.
        result: of the validation at the end.
        learning_rate: of the optimiser, where several were tried.
        curve: validations, ``(epoch, score)`` or ``(iteration, score)``.
        training_seconds: without validations, start-up, and pauses of the machine.
        images_per_second: of the training; what it says depends on what else ran.
    """

    rows: dict[str, str]
    baseline_of: list[str]
    multiply_adds: int | None
    seconds: float
    result: Result
    learning_rate: float | None = None
    curve: Curve = field(default_factory=list)
    training_seconds: float | None = None
    images_per_second: float | None = None

    @property
    def place(self) -> Place:
        """Where its config stands."""
        return Place(self.rows, self.baseline_of)

    @property
    def metric(self) -> str:
        """The metric to compare: one of :data:`METRICS`, or else the first.

        Raises:
            UserError: if nothing was measured, as of a detector that finds nothing.
        """
        names = list(self.result.metrics)
        if not names:
            raise UserError(
                f"{self.result.config}, seed {self.result.seed}, has no metric to "
                "compare; leave it out, or train it so that something is found"
            )
        return next((name for name in METRICS if name in names), names[0])

    @property
    def score(self) -> float:
        """Its value, as the host library reports it; NaN if that is no number."""
        score = self.result.metrics[self.metric]
        return math.nan if score is None else score

    @property
    def images(self) -> float | None:
        """How many it was trained on, each as often as it came; None if not known."""
        if self.training_seconds is None or self.images_per_second is None:
            return None
        return self.training_seconds * self.images_per_second

    def score_after(self, share: float) -> float | None:
        """The score after a share of the training, None if nothing was measured there.

        There is within a fiftieth of the training.
        """
        if not self.curve:
            return None
        end = self.curve[-1][0]
        step, score = min(self.curve, key=lambda point: abs(point[0] - share * end))
        return score if abs(step - share * end) <= end / 50 else None


@dataclass(frozen=True)
class Row:
    """The runs of one config in a group, with the best of its learning rates.

    Attributes:
        name: of the config in this group.
        is_baseline: whether the other rows are compared with this one.
        runs: in the order of their seeds.
        tried: the score with the first seed by learning rate, where several were tried.
    """

    name: str
    is_baseline: bool
    runs: list[AblationRun]
    tried: dict[float, float] = field(default_factory=dict)

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
                run = _read_run(content)
                result = run.result
                runs[result.config, result.config_sha256, result.seed] = run
        except FileNotFoundError as error:
            raise UserError(f"the runs {path} do not exist") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} does not hold runs of an ablation") from error
    return list(runs.values())


def _read_run(content: dict) -> AblationRun:
    """Make a run of what JSON holds of it.

    Validations that were no number are left out of its curve.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: if it is none.
    """
    result = Result(**content.pop("result"))
    curve = [(step, score) for step, score in content.pop("curve", [])]
    curve = [(step, float(score)) for step, score in curve if score is not None]
    run = AblationRun(**content, result=result, curve=curve)
    if not result.metrics or math.isinf(run.score):
        raise ValueError("a run without a score")
    if not run.rows or not set(run.baseline_of) <= run.rows.keys():
        raise ValueError("a run without a place")
    numbers = [run.seconds, *(step for step, _ in curve)]
    optional = (run.learning_rate, run.training_seconds, run.images_per_second)
    if min([*numbers, *(n for n in optional if n is not None)]) <= 0:
        raise ValueError("a time, step or rate that is not positive")
    return run


def group_runs(runs: Iterable[AblationRun]) -> dict[str, list[Row]]:
    """Sort runs into groups and rows.

    Rows whose names are numbers come in their order, others by
    :func:`comparable_means`, the best first. Configs of one group that measure
    different things stand in a group for each metric. A group in which nothing is
    compared with the baseline is left out, unless all are like that.

    Raises:
        UserError: if runs of one row are not of one config in one version, or a group
            has several baselines.
    """
    runs = sorted(runs, key=lambda run: run.result.seed)
    require_own_rows((run.result.config, run.place) for run in runs)
    found: dict[str, dict[str, dict[str, list[AblationRun]]]] = {}
    for run in runs:
        for group, name in run.rows.items():
            rows = found.setdefault(group, {}).setdefault(run.metric, {})
            rows.setdefault(name, []).append(run)
    groups = {}
    for group, metrics in found.items():
        for metric, rows in metrics.items():
            title = group if len(metrics) == 1 else f"{group}, {display_of(metric)[0]}"
            groups[title] = _rows_of(group, rows)
    compared = {
        group: rows
        for group, rows in groups.items()
        if len(rows) > 1 or not rows[0].is_baseline
    }
    return compared or groups


def _rows_of(group: str, runs: dict[str, list[AblationRun]]) -> list[Row]:
    """The rows of a group from its runs by name, in the order of a table."""
    rows = []
    for name, members in runs.items():
        members, tried = best_learning_rate(members)
        if (count := len({run.result.config_sha256 for run in members})) > 1:
            raise UserError(
                f"all runs of {name!r} in {group!r} must be of one version of "
                f"{members[0].result.config}, got {count}"
            )
        rows.append(Row(name, group in members[0].baseline_of, members, tried))
    means = comparable_means(rows)
    return sorted(rows, key=lambda row: (number_of(row.name), -means[row.name]))


def best_learning_rate(
    runs: list[AblationRun],
) -> tuple[list[AblationRun], dict[float, float]]:
    """Keep the runs of the learning rate that is best with the first seed.

    Args:
        runs: of one row, in the order of their seeds.

    Returns:
        The runs, and the score of each learning rate with the first seed; all and none
        if no learning rates were tried.
    """
    first = [run for run in runs if run.result.seed == runs[0].result.seed]
    tried = {run.learning_rate: run.score for run in first}
    if None in tried:
        return runs, {}
    best = best_rate(tried)
    return [run for run in runs if run.learning_rate == best], dict(
        sorted(tried.items())
    )


def best_rate(scores: dict[float, float]) -> float:
    """The learning rate of the highest score; one that is no number is below all."""
    return max(scores, key=lambda rate: (not math.isnan(scores[rate]), scores[rate]))


def comparable_means(rows: Sequence[Row]) -> dict[str, float]:
    """Means over the seeds that all rows have, by name.

    Minus infinity of a row with a score that is no number, which is below all others.
    """
    seeds = set.intersection(*(row.seeds for row in rows))
    means = {row.name: statistics.fmean(row.scores_of(seeds)) for row in rows}
    return {n: -math.inf if math.isnan(mean) else mean for n, mean in means.items()}


def compare(row: Row, baseline: Row) -> tuple[float, bool]:
    """Compare a row with the baseline over the seeds that both have.

    A seed makes some runs better than others in all rows, so that one which a row lacks
    would be compared with nothing.

    Returns:
        The difference of the means, and whether it is more than chance makes it, at the
        5 % level: by Welch's t-test, or where a side has a single seed by Student's,
        with the deviation that all seeds of the row or the baseline have. False if
        neither has several, or a score is no number.
    """
    scores = row.scores_of(baseline.seeds)
    others = baseline.scores_of(row.seeds)
    difference = statistics.fmean(scores) - statistics.fmean(others)
    if math.isnan(difference):
        return difference, False
    known = max(row.scores, baseline.scores, key=len)
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    if min(len(scores), len(others)) > 1:
        with warnings.catch_warnings():  # seeds may agree to the last digit
            warnings.simplefilter("ignore", RuntimeWarning)
            chance = stats.ttest_ind(scores, others, equal_var=False).pvalue
    elif deviation > 0:
        error = deviation * math.sqrt(1 / len(scores) + 1 / len(others))
        chance = 2 * stats.t.sf(abs(difference) / error, len(known) - 1)
    else:
        chance = 1.0
    return difference, bool(chance < 0.05)


def number_of(name: str) -> float:
    """A name as a number, infinity if it is none."""
    try:
        return float(name)
    except ValueError:
        return math.inf


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(sorted(names))


def display_of(metric: str) -> tuple[str, int]:
    """What a metric is called, and the decimals of a mean."""
    return METRICS.get(metric, (metric, 3))
