"""What a training logged, as curves over its iterations."""

import json
import math
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from setformer_mm.utils.errors import UserError

Curve = list[tuple[int, float]]  # (iteration, value), in the order of iterations


def read_records(work_dir: str | os.PathLike) -> list[dict]:
    """All logged records, in the order of logging, resumed runs after each other.

    Raises:
        UserError: if nothing was logged.
    """
    logs = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    records = [record for log in logs for record in _whole_records(log)]
    if not any("loss" in record for record in records):
        raise UserError(f"no training log found in {work_dir}/*/vis_data/scalars.json")
    return records


def _whole_records(log: Path) -> Iterator[dict]:
    """Records of one process; a killed one may have written half of its last."""
    for line in log.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict) or "step" not in record:
            return
        yield record


def to_curves(records: list[dict], names: tuple[str, ...]) -> dict[str, Curve]:
    """Sort records into a curve for each of ``names`` that was logged.

    A validation is logged with the number of epochs in epoch-based training, so its
    iteration is that of the last training record before it. Iterations that a resumed
    run repeats replace their first values.
    """
    points: dict[str, dict[int, float]] = {}
    iteration = 0
    for record in records:
        if "loss" in record:
            iteration = record["step"]
        for name in names:
            if name in record:
                points.setdefault(name, {})[iteration] = record[name]
    return {name: sorted(curve.items()) for name, curve in points.items()}


def validation_curve(records: list[dict], metric: str) -> Curve:
    """Values of a metric over the steps in which validations are logged.

    These are epochs in epoch-based training, iterations otherwise. Values that are no
    number are left out.
    """
    points = {record["step"]: record[metric] for record in records if metric in record}
    return sorted((step, v) for step, v in points.items() if not math.isnan(v))


def training_time(records: list[dict]) -> tuple[float, int] | None:
    """Seconds of an iteration, and the last logged iteration; None if without times.

    The seconds are the median of what was logged: a pause of the machine does not
    count.
    """
    training = [record for record in records if "loss" in record]
    times = [record["time"] for record in training if "time" in record]
    return (statistics.median(times), training[-1]["step"]) if times else None
