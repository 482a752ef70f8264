"""bench_op.py: its gate, what it leaves out, and what it writes."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import bench_op
from toolkit.benchmarks import contenders, operator_tables
from toolkit.benchmarks.contenders import (
    AGENT,
    CONTENDERS,
    DIRECTIONS,
    EAGER,
    SDPA,
)
from toolkit.benchmarks.problems import Problem, single_image

TINY = ("--tokens", 4, 49, "--batch", 0, "--rounds", 2, "--quick")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(bench_op, "TURN_SECONDS", 0)


def test_tables_picture_and_figures(run_module, capsys, tmp_path):
    files = {kind: tmp_path / "out" / kind for kind in ("json", "markdown", "plot")}
    flags = [flag for kind, path in files.items() for flag in (f"--{kind}", path)]
    run_module(
        bench_op, *TINY, "--no-memory", "--threads", torch.get_num_threads(), *flags
    )
    out = capsys.readouterr().out
    text = files["markdown"].read_text()
    assert out.endswith(text)
    assert "agree with their formulas" in out

    result = json.loads(files["json"].read_text())
    assert operator_tables.render(result) + "\n" == text
    assert [(r["problem"]["side"], r["direction"]) for r in result["records"]] == [
        (side, direction) for side in (2, 7) for direction in DIRECTIONS
    ]
    for record in result["records"]:
        assert record["times"].keys() >= {"reference", EAGER, SDPA, AGENT}
        assert {len(times) for times in record["times"].values()} == {2}
        assert record["peaks"] == {}
    for name in result["contenders"]:
        assert name in text
    for key in ("torch", "threads", "device", "dtype"):
        assert str(result["environment"][key]) in text
    assert Image.open(files["plot"]).size == (1320, 600)


def test_stages_come_with_their_ratios(run_module, capsys, monkeypatch):
    for module in (bench_op, operator_tables):
        monkeypatch.setattr(module, "STAGES", ((6, 2, 2), (5, 4, 2)))
    names = ("--contenders", "reference", EAGER, SDPA)
    run_module(bench_op, "--tokens", "--rounds", 2, "--no-memory", *names)
    rows = [r for r in capsys.readouterr().out.splitlines() if r.startswith("| stage")]
    assert [row.split("|")[1].strip() for row in rows] == [
        f"stage {number}, {direction}" for number in (1, 2) for direction in DIRECTIONS
    ]


def test_growth_is_that_of_the_two_longest():
    times = {65536: 1.0, 262144: 4.2}
    records = [
        dict(
            problem=dict(batch=1, side=int(n**0.5), heads=2, reference_side=4, dim=32),
            direction="forward",
            times=dict(ours=[seconds]),
            peaks={},
            skipped={},
        )
        for n, seconds in times.items()
    ]
    result = dict(contenders=["ours"], records=records, batch=8)
    assert (
        "262144 tokens / with 65536: 4.20 (4.20 to 4.20)"
        in operator_tables.headline(result)
    )


def test_memory_of_every_contender(run_module, capsys):
    names = ("--contenders", "reference", EAGER)
    run_module(
        bench_op, "--tokens", 1600, "--batch", 0, "--rounds", 1, "--quick", *names
    )
    rows = [
        [float(cell) for cell in row.split("|")[2:-1]]
        for row in capsys.readouterr().out.split("Peak memory", 1)[1].splitlines()
        if row.startswith("| 1 x 1600 tokens")
    ]
    # The features of 1600 tokens and two heads, 32 floats each, have 0.4 MiB.
    assert len(rows) == 2
    for row in rows:
        assert all(0.4 < peak < 10 for peak in row)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.1 * grad


RIGHT = CONTENDERS[EAGER].function
WRONG = dict(
    output=lambda *args: lambda *inputs: 1.01 * RIGHT(*args)(*inputs),
    nan=lambda *args: lambda *inputs: RIGHT(*args)(*inputs) / 0 * 0,
    gradient=lambda *args: lambda *inputs: WrongGradient.apply(RIGHT(*args)(*inputs)),
)


@pytest.mark.parametrize("mistake", WRONG)
def test_nothing_is_measured_if_a_contender_is_wrong(refused, monkeypatch, mistake):
    wrong = replace(CONTENDERS[EAGER], function=WRONG[mistake])
    monkeypatch.setitem(contenders.CONTENDERS, EAGER, wrong)
    message = refused(bench_op, *TINY)
    assert message.startswith(f"error: {EAGER} is wrong for 1 x 4 tokens")
    assert "nothing was measured" in message
    assert ("backward" in message) == (mistake == "gradient")


def test_calls_that_take_too_long_are_left_out(run_module, capsys):
    run_module(bench_op, *TINY, "--no-memory", "--longest-call", 1e-9)
    out = capsys.readouterr().out
    assert f"skipped: {SDPA}, 1 x 49 tokens, 2 heads, forward: a call would take" in out
    assert f"skipped: {SDPA}, 1 x 4 tokens" not in out


def test_prediction_follows_the_growth_of_the_contender():
    def record(side, direction, seconds):
        return dict(
            problem=dict(batch=1, side=side, heads=2, reference_side=8, dim=32),
            direction=direction,
            times={SDPA: [seconds], AGENT: [seconds]},
            skipped={},
        )

    records = [record(4, "forward", 9.0), record(8, "forward", 1.0)]
    four_times = Problem(1, 16, 2, 8)
    assert bench_op.predict(SDPA, four_times, "forward", records) == 16
    assert bench_op.predict(AGENT, four_times, "forward", records) == 4
    assert bench_op.predict(AGENT, four_times, "forward + backward", records) == 0


def test_compiled_reference_is_measured_where_asked_for():
    problems = Problem(8, 56, 2, 4), single_image(49)
    for choice, expected in dict(stages=[True, False], all=[True, True]).items():
        args = bench_op.argparse.Namespace(compile=choice)
        names = [contenders.COMPILED]
        fitting = [bench_op.fitting(args, names, p) for p in problems]
        assert [bool(f) for f in fitting] == expected


def test_missing_contenders_are_named(run_module, capsys, monkeypatch):
    gone = replace(CONTENDERS[contenders.POT], missing="it is on holiday")
    monkeypatch.setitem(contenders.CONTENDERS, contenders.POT, gone)
    run_module(bench_op, *TINY, "--no-memory")
    assert (
        f"- not available: {contenders.POT}: it is on holiday"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("flags", [("--tokens", 50), ("--contenders", "nonsense")])
def test_senseless_flags_are_refused(run_module, capsys, flags):
    with pytest.raises(SystemExit, match="2"):
        run_module(bench_op, *flags)
    assert str(flags[1]) in capsys.readouterr().err
