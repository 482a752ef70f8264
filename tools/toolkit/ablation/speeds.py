"""How long an image of the training takes in each row of an ablation.

The runs tell, as long as all of them ran alone on one machine.
``tools/bench_configs.py`` measures the models of a group side by side, which compares
them wherever they were trained.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from setformer_mm.utils.errors import UserError

from ..benchmarks.reporting import describe
from .runs import Row, listed


@dataclass(frozen=True)
class Speeds:
    """Times of an image.

    Attributes:
        seconds: by group and name of the row.
        what: they are of.
        machines: that they were measured on, by group, in words; none if they are of
            the runs.
        configs: that were measured, with the hash that each had, by path.
    """

    seconds: dict[str, dict[str, float]]
    what: str = "training"
    machines: dict[str, str] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)

    def of(self, group: str, rows: Sequence[Row]) -> dict[str, float] | None:
        """By name of the row, None unless all rows are known.

        Raises:
            UserError: if they were measured side by side, but one was not.
        """
        known = self.seconds.get(group, {})
        missing = {row.name for row in rows} - known.keys()
        if missing and group in self.machines:
            raise UserError(
                f"the speeds of {group!r} lack {listed(missing)}; measure its configs "
                "anew with tools/bench_configs.py"
            )
        return None if missing else known


def speeds_of_runs(groups: Mapping[str, Sequence[Row]]) -> Speeds:
    """What the runs themselves tell: the median of each row."""
    return Speeds(
        {
            group: {
                row.name: 1 / statistics.median(r.images_per_second for r in row.runs)
                for row in rows
                if all(run.images_per_second for run in row.runs)
            }
            for group, rows in groups.items()
        }
    )


def read_speeds(paths: Iterable[Path]) -> Speeds:
    """Read what ``tools/bench_configs.py --json`` measured.

    Raises:
        UserError: if a file does not hold that, or a group is in two files.
    """
    seconds, machines, configs = {}, {}, {}
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            machine = describe(content["environment"])
            groups = {group["name"]: group for group in content["groups"]}
            of_file = {name: _seconds_of(group) for name, group in groups.items()}
            for group in groups.values():
                configs |= group["configs"]
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise UserError(f"{path} does not hold speeds of configs") from error
        if again := seconds.keys() & groups:
            raise UserError(
                f"{path} has speeds of {listed(again)}, and so has another file beside "
                "it; delete one of them"
            )
        seconds |= of_file
        machines |= dict.fromkeys(groups, machine)
    return Speeds(seconds, "training backbone and neck", machines, configs)


def _seconds_of(group: dict) -> dict[str, float]:
    """Seconds of an image by name, of a group as JSON has it."""
    batch, times = group["batch"], group["times"]["training"]
    if not all(0 < x < math.inf for rounds in times.values() for x in [batch, *rounds]):
        raise ValueError("a batch or a time that is not positive")
    return {name: statistics.median(rounds) / batch for name, rounds in times.items()}
