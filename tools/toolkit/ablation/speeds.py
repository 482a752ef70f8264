"""How long an image of the training takes in each row of an ablation.

The runs tell, as long as all of them ran alone on one machine.
``tools/bench_configs.py`` measures the models of a group side by side, which compares
them wherever they were trained.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from setformer_mm.utils.errors import UserError

from ..benchmarks.reporting import describe
from .runs import Row


@dataclass(frozen=True)
class Speeds:
    """Times of an image.

    Attributes:
        seconds: by group and name of the row.
        what: they are of.
        machines: that they were measured on, by group, in words; none if they are of
            the runs.
    """

    seconds: dict[str, dict[str, float]]
    what: str = "training"
    machines: dict[str, str] = field(default_factory=dict)

    def of(self, group: str, rows: Sequence[Row]) -> dict[str, float] | None:
        """By name of the row, None unless all rows are known."""
        known = self.seconds.get(group, {})
        return known if known.keys() >= {row.name for row in rows} else None


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
        UserError: if a file does not hold that.
    """
    seconds, machines = {}, {}
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for group in content["groups"]:
                times = group["times"]["training"]
                seconds[group["name"]] = {
                    name: statistics.median(rounds) / group["batch"]
                    for name, rounds in times.items()
                }
                machines[group["name"]] = describe(content["environment"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} does not hold speeds of configs") from error
    return Speeds(seconds, "training backbone and neck", machines)
