"""Contenders side by side."""

from toolkit import timing
from toolkit.timing import interleave, ratio


def test_contenders_take_turns():
    turns = []
    calls = {name: lambda name=name: turns.append(name) for name in "abc"}
    times = interleave(calls, "cpu", rounds=2)
    assert "".join(turns) == "abc" + "bca"
    assert {name: len(seconds) for name, seconds in times.items()} == dict(
        a=2, b=2, c=2
    )


def test_short_calls_are_repeated_within_a_turn(monkeypatch):
    clock = 0.0
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock)

    def call():
        nonlocal clock
        clock += 0.25

    assert interleave(dict(call=call), "cpu", 2, turn_seconds=2) == dict(
        call=[0.25, 0.25]
    )
    assert clock == 0.25 * (1 + 2 * 8)


def test_nothing_to_measure_is_no_error():
    assert interleave({}, "cpu", rounds=2) == {}


def test_ratio_lies_in_its_spread():
    value, low, high = ratio([2.0, 4.0, 3.0, 9.0, 3.0], [1.0, 1.1, 0.9, 1.0, 1.0])
    assert value == 3
    assert low == 3 / 1.0 and high == 4 / 1.0
    assert ratio([2.0], [1.0]) == (2, 2, 2)
