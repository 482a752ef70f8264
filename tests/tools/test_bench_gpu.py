"""bench_gpu.py and its roofline: hand-checked counts, the gate, and the whole way."""

import json

import pytest
import torch

import bench_gpu
from toolkit.benchmarks import gpu_cases, roofline
from toolkit.benchmarks.contenders import BOTH, FORWARD
from toolkit.benchmarks.problems import Problem
from toolkit.benchmarks.roofline import Ceilings, cost, floors

STAGE_1 = gpu_cases.CLASSIFIER[0].problem


def test_cost_of_stage_1_is_the_one_counted_by_hand():
    assert STAGE_1.tokens == 3136 and STAGE_1.references == 16
    rows = 64 * 2 * 3136
    forward = cost(STAGE_1, FORWARD, torch.bfloat16)
    assert forward.moved_bytes == 2 * rows * 32 * 2 == 51_380_224
    assert forward.exponentials == rows * 64 == 25_690_112
    # D K, 4 K M, (4 L + 1) M a token; M K^2 a head.
    by_token = 32 * 32 + 4 * 32 * 16 + 5 * 16
    assert forward.multiply_adds == rows * by_token + 64 * 2 * 16 * 32**2
    both = cost(STAGE_1, BOTH, torch.float32)
    assert both.moved_bytes == 5 * rows * 32 * 4
    assert both.exponentials == 2 * forward.exponentials
    assert both.multiply_adds == 3 * forward.multiply_adds - rows * 2 * 16


def test_floors_divide_by_the_ceilings_that_are_known():
    needed = cost(STAGE_1, FORWARD, torch.bfloat16)
    bound = floors(needed, Ceilings(51_380_224, None, needed.multiply_adds / 2))
    assert bound == dict(moved_bytes=1, multiply_adds=2)
    assert roofline.Ceilings._fields == needed._fields


def test_cases_have_the_sizes_of_the_models():
    sizes = [
        (case.problem.batch, case.problem.tokens, case.problem.heads)
        for case in gpu_cases.CASES
    ]
    assert sizes[:7] == [
        *((64, 3136, 2), (64, 784, 4), (64, 196, 8), (64, 49, 16)),
        *((2, 64000, 2), (2, 16000, 4), (1, 70000, 2)),
    ]
    assert [case.dtype for case in gpu_cases.CASES].count("float32") == 2


def test_the_whole_way_writes_its_figures(run_module, tmp_path):
    target = tmp_path / "figures.json"
    run_module(bench_gpu, "--device", "cpu", "--quick", "--json", target)
    result = json.loads(target.read_text())
    assert [r["direction"] for r in result["records"]] == [FORWARD, BOTH] * 2
    for record in result["records"]:
        assert record["times"].keys() >= {record["ours"], "reference", "SDPA"}
        assert len(record["queued"]) == 2
        assert record["floors"]["moved_bytes"] > 0
    assert all(e <= 1 for errors in result["errors"].values() for e in errors.values())


def test_no_case_begins_when_time_is_up(run_module, tmp_path):
    target = tmp_path / "figures.json"
    flags = "--device", "cpu", "--quick", "--seconds", 0, "--json", target
    run_module(bench_gpu, *flags)
    result = json.loads(target.read_text())
    assert result["records"] == []
    assert set(result["skipped"].values()) == {"no time was left"}


@pytest.mark.parametrize("what", ["output", "gradients"])
def test_wrong_results_close_the_gate(refused, monkeypatch, what):
    through_op = bench_gpu.through_op
    reference = bench_gpu.REFERENCE

    def wrong(problem, like, backend):
        right = through_op(problem, like, reference)
        if backend == reference and like.device.type == "cpu" and wrong.first:
            wrong.first = False  # what the others are compared with
            return right
        if what == "output":
            return lambda x, *maps: 1.1 * right(x, *maps)

        def same_output(x, *maps):
            out = right(x, *maps)
            return out.detach() + 1.1 * (out - out.detach())

        return same_output

    wrong.first = True
    monkeypatch.setattr(bench_gpu, "through_op", wrong)
    monkeypatch.setattr(bench_gpu, "measure_ceilings", None)
    said = refused(bench_gpu, "--device", "cpu", "--quick")
    assert f"the error of its {what}" in said and "nothing was measured" in said


def test_one_image_of_odd_batches_is_repeated():
    case = gpu_cases.Case("odd", Problem(3, 5, 2, 2, width=7), "float32")
    errors = bench_gpu.errors_of(case, "reference", "cpu")
    assert max(errors.values()) <= 1


def test_without_a_gpu_it_says_so(run_module, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a GPU that torch can use"):
        run_module(bench_gpu)
