"""Curves from the logs of a training, resumed and killed ones among them."""

import json
from pathlib import Path

import pytest

from setformer_mm.utils.errors import UserError
from toolkit.ablation.curves import (
    read_records,
    to_curves,
    training_time,
    validation_curve,
)


def write_log(folder: Path, records: list[dict], end: str = "\n") -> None:
    (folder / "vis_data").mkdir(parents=True)
    text = "\n".join(map(json.dumps, records)) + end
    (folder / "vis_data" / "scalars.json").write_text(text)


@pytest.fixture
def resumed(tmp_path) -> Path:
    """Killed in its second epoch, half a record written; then three epochs."""
    first = [dict(loss=3.0, time=0.2, step=10), {"mIoU": 5.0, "step": 1}]
    first.append(dict(loss=2.5, time=0.3, step=15))
    second = [dict(loss=2.0, time=9.0, step=15), dict(loss=1.5, time=0.2, step=20)]
    second += [{"mIoU": 7.0, "step": 2}, dict(loss=1.0, time=0.2, step=30)]
    second += [{"mIoU": 9.0, "step": 3}]
    write_log(tmp_path / "20250101_000000", first, end='\n{"loss": 2.')
    write_log(tmp_path / "20250102_000000", second)
    return tmp_path


def test_a_killed_and_resumed_training(resumed):
    records = read_records(resumed)
    assert validation_curve(records, "mIoU") == [(1, 5.0), (2, 7.0), (3, 9.0)]
    assert to_curves(records, ("loss", "mIoU", "other")) == {
        "loss": [(10, 3.0), (15, 2.0), (20, 1.5), (30, 1.0)],
        "mIoU": [(10, 5.0), (20, 7.0), (30, 9.0)],
    }


def test_time_is_the_median(resumed):
    assert training_time(read_records(resumed)) == (0.2, 30)
    assert training_time([dict(loss=1.0, step=3)]) is None


def test_nothing_logged(tmp_path):
    with pytest.raises(UserError, match="no training log found in"):
        read_records(tmp_path)
