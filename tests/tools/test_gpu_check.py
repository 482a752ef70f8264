"""gpu_check.py: its sentence without a GPU, its limits, its table and its file.

All figures here are made up.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import gpu_check
from toolkit.benchmarks.gpu_steps import (
    FAILED,
    PASSED,
    SHORTEST,
    SKIPPED,
    TIMED_OUT,
    Check,
    Step,
    run_limited,
)
from toolkit.benchmarks.gpu_tables import render
from toolkit.benchmarks.kernel_resources import read_cuobjdump, read_ptxas

ROOT = Path(__file__).parents[2]
MADE_UP_MACHINE = dict(
    device="Made-up GPU", torch="2.99", cuda="99", driver="1.2", date="d", commit="c"
)
PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3fooPf' for 'sm_90'
ptxas info    : Function properties for _Z3fooPf
    24 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 24 bytes cumulative stack size
ptxas info    : Compiling entry function '_Z3barPf' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
""".splitlines()
CUOBJDUMP = """
Fatbin elf code:
 Function _Z3fooPf:
  REG:128 STACK:24 SHARED:0 LOCAL:12 CONSTANT[0]:356 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z3barPf:
  REG:40 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:356 TEXTURE:0 SURFACE:0 SAMPLER:0
""".splitlines()


def made_up_record(direction: str, **times: float) -> dict:
    return dict(
        case=dict(name="224, stage 1", dtype="bfloat16"),
        direction=direction,
        ours="cuda",
        times={name.replace("_", " "): [t] * 3 for name, t in times.items()},
        queued=[1e-4] * 3,
        floors=dict(moved_bytes=2e-5, exponentials=5e-5, multiply_adds=1e-5),
        peaks=dict(cuda=3 * 2**20),
    )


@pytest.fixture
def result() -> dict:
    both = "forward + backward"
    return dict(
        machine=MADE_UP_MACHINE,
        kernels=[],
        operator=dict(
            records=[
                made_up_record("forward", cuda=1.0, reference=7.0, eager=3.0, SDPA=2.5),
                made_up_record(both, cuda=2.0, reference=18.0),
            ],
            ceilings=dict(
                bfloat16=dict(moved_bytes=4e12, exponentials=4e12, multiply_adds=3e14)
            ),
            skipped={},
        ),
        compiled=dict(
            records=[made_up_record(both, cuda=2.0, compiled_reference=8.0)], skipped={}
        ),
        backbone={},
        steps=dict(
            build=dict(outcome=PASSED, seconds=61.0, why="2 kernels", output=[]),
            backbone=dict(
                outcome=SKIPPED, seconds=0.0, why="not installed: timm", output=[]
            ),
        ),
    )


def test_without_a_gpu_one_sentence_and_status_1():
    env = dict(os.environ, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    script = ROOT / "tools" / "gpu_check.sh"
    done = subprocess.run([script], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: gpu_check: it needs an NVIDIA GPU")
    assert torch.__version__ in sentence


def test_whole_way_on_the_cpu(run_module, tmp_path, capfd):
    target = tmp_path / "new" / "check.json"
    with pytest.raises(SystemExit) as end:
        run_module(gpu_check, "--device", "cpu", "--quick", "--json", target)
    out = capfd.readouterr().out
    assert end.value.code == 0, out
    result = json.loads(target.read_text())
    assert result["steps"]["operator"]["outcome"] == PASSED
    assert result["steps"]["build"]["outcome"] == SKIPPED
    assert {"torch", "date", "commit", "device"} <= result["machine"].keys()
    assert out.endswith(render(result) + "\n")


def test_table(result):
    text = render(result)
    forward, both = (
        line.split() for line in text.splitlines() if line.startswith("224, stage 1")
    )
    # ms, floor, share of the copy's rate, reference, eager, SDPA, MiB
    assert forward[5:] == ["0.100", "0.050", "20%", "7.00", "3.00", "2.50", "3.0"]
    assert both[5:] == ["0.100", "0.050", "20%", "9.00", "4.00", "3.0"]
    assert "copy 4000 GB/s, matrix product 600.0 TFLOP/s, 4.00 T exp/s" in text
    assert "backbone: skipped, 0 s: not installed: timm" in text
    assert "Made-up GPU" in text


def test_table_without_figures(result):
    result |= dict(operator={}, compiled={}, backbone={})
    assert "build: passed" in render(result)


def test_backbones_have_their_table(result):
    setting = dict(height=224, width=224, batch=64, training=True)
    result["backbone"] = dict(
        parameters=dict(setformer_tiny=1, swin=2),
        records=[dict(setting=setting, times=dict(setformer_tiny=[0.032]))],
    )
    text = render(result)
    assert "224x224 training" in text
    assert any(line.split() == ["setformer_tiny", "2000"] for line in text.splitlines())


@pytest.mark.parametrize(
    "read, lines",
    [(read_ptxas, PTXAS), (read_cuobjdump, CUOBJDUMP)],
)
def test_registers_and_spills(read, lines):
    assert read(lines) == [
        dict(kernel="_Z3fooPf", registers=128, spilled_bytes=12),
        dict(kernel="_Z3barPf", registers=40, spilled_bytes=0),
    ]


@pytest.mark.parametrize(
    "code, outcome",
    [("print('well')", PASSED), ("import sys; sys.exit('ill')", FAILED)],
)
def test_outcome_of_a_step(tmp_path, code, outcome):
    check = Check(100, tmp_path)
    lines = check.run("tests", [sys.executable, "-c", code])
    assert check.steps["tests"].outcome == outcome
    assert check.steps["tests"].why == ("" if outcome == PASSED else "ill")
    assert lines


def test_a_step_ends_at_its_limit_with_all_that_it_started(tmp_path):
    begin = time.monotonic()
    command = ["sh", "-c", "echo begun; sleep 60 & sleep 60"]
    outcome, lines = run_limited(command, 0.5, tmp_path, dict(os.environ), echo=False)
    assert outcome == TIMED_OUT and lines == ["begun"]
    assert time.monotonic() - begin < 20


def test_no_step_begins_without_time(tmp_path):
    check = Check(SHORTEST - 1, tmp_path)
    assert check.run("tests", ["false"]) == []
    assert check.steps["tests"].why == "no time was left"


@pytest.mark.parametrize(
    "changed, status",
    [
        ({}, 0),
        (dict(tests=SKIPPED), 0),
        (dict(tests=FAILED), 1),
        (dict(tests=TIMED_OUT), 1),
        (dict(build=FAILED), 1),
        (dict(operator=FAILED), 1),
        (dict(racecheck=TIMED_OUT), 0),
        (dict(memcheck=FAILED), 1),
        (dict(compiled=FAILED), 0),
    ],
)
def test_verdict(changed, status):
    names = "build", "tests", "operator", "memcheck", "racecheck", "compiled"
    outcomes = dict.fromkeys(names, PASSED) | changed
    steps = {name: Step(outcome) for name, outcome in outcomes.items()}
    assert gpu_check.verdict(steps) == status


def test_steps_missing_after_a_failure_are_no_success():
    assert gpu_check.verdict(dict(build=Step(FAILED))) == 1
    assert gpu_check.verdict(dict(build=Step(PASSED))) == 1


def test_file_is_the_result(tmp_path, result):
    gpu_check.write(tmp_path / "new" / "file.json", result)
    assert json.loads((tmp_path / "new" / "file.json").read_text()) == result


def test_without_pytest_tests_are_left_out_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    check = Check(100, tmp_path)
    gpu_check.test(check)
    assert check.steps["tests"].outcome == SKIPPED
    assert check.steps["tests"].why.endswith("has no pytest")


def test_backbones_are_left_out_without_their_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    check = Check(100, tmp_path)
    assert gpu_check.measure_backbones(check) == {}
    why = check.steps["backbone"].why
    assert why == "not installed: mmengine, mmpretrain, timm"
