"""Tables and picture of the comparison on sequences."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from setformer_mm.utils.files import save_figure
from setformer_mm.utils.markdown import markdown_table

from ..ablation.runs import compare
from .grid import MIXERS
from .runs import Run
from .tasks import TASKS

BASELINE = "SeT"


@dataclass(frozen=True)
class Row:
    """The runs of one mixer on one task, in the order of their seeds."""

    mixer: str
    runs: list[Run]

    @property
    def scores(self) -> list[float]:
        return [run.accuracy for run in self.runs]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def seeds(self) -> set[int]:
        return {run.seed for run in self.runs}

    def scores_of(self, seeds: set[int]) -> list[float]:
        """The scores of some seeds; of all if it has none of them."""
        return [r.accuracy for r in self.runs if r.seed in seeds] or self.scores


def rows_of(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Runs by task and mixer, the best mixer first."""
    tasks = {}
    for name in TASKS:
        of_task = sorted((r for r in runs if r.task == name), key=lambda run: run.seed)
        by_mixer = {m: [r for r in of_task if r.mixer == m] for m in MIXERS}
        rows = [Row(mixer, found) for mixer, found in by_mixer.items() if found]
        if rows:
            tasks[name] = sorted(rows, key=lambda row: -row.mean)
    return tasks


def markdown(runs: Sequence[Run]) -> str:
    """A table a task, and below them how to read them."""
    parts = []
    for rows in rows_of(runs).values():
        settings = rows[0].runs[0].settings
        parts += [
            f"**{settings['title']}**: {settings['train']} sequences to train with, "
            f"{settings['test']} to test, {settings['epochs']:g} epochs; the most "
            f"frequent class alone has {rows[0].runs[0].majority:.1f} %.",
            _table(rows),
        ]
    parts.append(
        "Accuracy on the test in %, the mean of the seeds and their standard "
        f"deviation; *against {BASELINE}* is the difference of the means over the "
        "seeds that both have, bold where it is more than chance makes it (Welch's "
        "t-test, 5 %). *Training* is the accuracy on as many sequences of the training."
    )
    return "\n\n".join(parts) + "\n"


def _table(rows: list[Row]) -> str:
    baseline = next((row for row in rows if row.mixer == BASELINE), None)
    header = ["mixer", "parameters", "accuracy", "deviation", "each seed", "training"]
    header += [f"against {BASELINE}"] * (baseline is not None)
    lines = []
    for row in rows:
        several = len(row.runs) > 1
        line = [
            f"**{row.mixer}**" if row is baseline else row.mixer,
            f"{row.runs[0].parameters:,}",
            f"{row.mean:.1f}",
            f"{statistics.stdev(row.scores):.1f}" if several else "–",
            ", ".join(f"{score:.1f}" for score in row.scores),
            f"{statistics.fmean(run.train_accuracy for run in row.runs):.1f}",
        ]
        if baseline is not None:
            line.append("" if row is baseline else _against(row, baseline))
        lines.append(line)
    return markdown_table(header, lines)


def _against(row: Row, baseline: Row) -> str:
    difference, is_certain = compare(row, baseline)
    text = f"{difference:+.1f}"
    return f"**{text}**" if is_certain else text


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw a panel a task: a dot a seed, a line the mean; one scale for all."""
    tasks = rows_of(runs)
    figure = Figure(figsize=(4.2 * len(tasks), 3), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False, sharex=True)[0]
    for panel, rows in zip(panels, tasks.values()):
        for place, row in enumerate(reversed(rows)):
            color = "C3" if row.mixer == BASELINE else "C0"
            places = [place] * len(row.scores)
            panel.plot(row.scores, places, "o", color=color, alpha=0.6, markersize=5)
            panel.plot(row.mean, place, "|", color=color, markersize=16)
        panel.set_yticks(range(len(rows)), [row.mixer for row in reversed(rows)])
        run = rows[0].runs[0]
        panel.axvline(run.majority, color="gray", linestyle=":", linewidth=1)
        panel.set_title(run.settings["title"], fontsize=10)
        panel.grid(axis="x", alpha=0.3)
    figure.supxlabel(
        "accuracy on the test (%); dotted: the most frequent class", fontsize=10
    )
    save_figure(figure, path)
