"""What the benchmarks measure with, and how they show it."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from toolkit.benchmarks import measuring
from toolkit.benchmarks.measuring import peak_memory
from toolkit.benchmarks.reporting import Progress, start

MIB = 2**20


def allocate(extra: int, returned: int):
    """A call that needs and returns so many MiB."""

    def call():
        torch.ones(extra * MIB, dtype=torch.uint8).fill_(2)
        return [torch.ones(returned * MIB, dtype=torch.uint8), "no tensor"]

    return call


def keep(size: int):
    """A call that needs and keeps so many MiB when it is called first."""
    kept = []

    def call():
        if not kept:
            kept.append(torch.ones(size * MIB, dtype=torch.uint8))

    return call


def fail():
    """No call at all."""
    raise ValueError("no such luck")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_is_that_of_the_call_without_its_results():
    settings = dict(device="cpu", threads=1, repeats=1)
    # The second tensor is made when the first one is gone.
    assert peak_memory(allocate, 24, 8, **settings) == pytest.approx(16 * MIB, abs=MIB)
    assert peak_memory(allocate, 1, 8, **settings) == pytest.approx(0, abs=MIB)
    first, second = (
        peak_memory(keep, 16, **settings, second_call=second)
        for second in (False, True)
    )
    assert first == pytest.approx(16 * MIB, abs=MIB)
    assert second == pytest.approx(0, abs=MIB)
    with pytest.raises(RuntimeError, match="no such luck"):
        peak_memory(fail, **settings)


def test_results_that_share_memory_count_once():
    tensor = torch.zeros(1000, dtype=torch.uint8)
    assert measuring._bytes_of([tensor, dict(view=tensor[:10]), 3]) == 1000


@pytest.mark.parametrize("place", [0, 1])
def test_the_largest_error_is_a_share_and_nan_is_larger(place):
    true = [torch.tensor([4.0, -8.0]).double(), torch.tensor([0.5]).double()]
    found = [torch.tensor([5.0, -8.0]), torch.tensor([0.6])]
    assert measuring.largest_share(found, true) == pytest.approx(0.2)
    found[place][0] = torch.nan
    assert not measuring.largest_share(found, true) < 1


def test_progress_tells_the_time_left(capsys, monkeypatch):
    clock = iter([0, 1, 1.5, 2, 50])
    monkeypatch.setattr(
        "toolkit.benchmarks.reporting.time.monotonic", lambda: next(clock)
    )
    progress = Progress(total=4)
    progress.now("first")
    progress.now("too soon after it")
    progress.add(1)
    progress.add(1)
    assert capsys.readouterr().err.splitlines() == [
        "[  0 %] first",
        "[ 50 %, about 50 s left] too soon after it",
    ]


def test_files_that_cannot_be_written_are_named_first(tmp_path):
    args = Namespace(device="cpu", threads=None, json=str(tmp_path), markdown=None)
    with pytest.raises(SystemExit, match="error: --json names a file, and .* is a fol"):
        start(args)
    args.json = str(tmp_path / "new" / "a.json")
    start(args)
    assert list(tmp_path.iterdir()) == []
