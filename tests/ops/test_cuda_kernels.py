"""The CUDA kernels, run on the CPU, against the reference in float64.

Agreement on a GPU is tested in test_cuda.py.
"""

import random
import shutil
from pathlib import Path

import pytest
import torch

from .cuda_on_cpu import CSRC, DEVICES, Kernels, compile_kernels
from .problems import random_tensors
from .random_cases import check_case, random_case, run

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_device = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> Kernels:
    return compile_kernels(tmp_path_factory.mktemp("kernels"), CSRC, "-O2")


def check(kernels: Kernels, device: str, tensors: list, dtype: torch.dtype, **fields):
    kernels.imitate(device, seed=random.randrange(2**32))
    tensors = [t.detach() for t in tensors]
    check_case(tensors, fields, dtype, attend=kernels.set_attention)


@each_device
@each_dtype
@pytest.mark.timeout(300)
def test_random_cases_agree_with_float64(kernels, device, dtype):
    for _ in range(5):
        # Scalings stay in float's range for so many: see csrc/problem.h.
        tensors, fields = random_case(70, 1, max_iters=8)
        check(kernels, device, tensors, dtype, **fields)


@each_device
@pytest.mark.parametrize("tokens", [64, 65, 257, 300, 1100])
def test_heads_of_one_block_of_a_cluster_and_of_many_blocks(kernels, device, tokens):
    """What is kept in shared memory, and what several launches compute anew."""
    tensors = random_tensors(1, tokens, 2, 32, 32, 16)
    check(kernels, device, tensors, torch.bfloat16, num_iters=3)


def test_sums_of_more_chunks_than_a_group_has(kernels):
    tensors = random_tensors(1, 17 * 256 + 3, 1, 32, 32, 9)
    check(kernels, "sm_80", tensors, torch.float32, num_iters=1)


@each_device
@each_dtype
@pytest.mark.parametrize("tau", [None, 0.5])
def test_valid_parts(kernels, device, dtype, tau):
    """Some, one row, nothing and all of images of many tiles."""
    grid = 23, 31
    tensors = random_tensors(4, grid[0] * grid[1], 2, 32, 32, 6)
    valid = torch.tensor([[17, 12], [1, 31], [0, 5], grid])
    check(
        kernels,
        device,
        tensors,
        dtype,
        spatial_shape=grid,
        reference_shape=(2, 3),
        valid_shape=valid,
        tau=tau,
    )


@each_dtype
@pytest.mark.parametrize(
    "dim, anchors, references",
    [(1, 1, 1), (5, 3, 2), (32, 32, 16), (31, 32, 17), (33, 32, 64), (32, 32, 65)],
)
def test_any_size_of_a_head(kernels, dim, anchors, references, dtype):
    tensors = random_tensors(2, 70, 2, dim, anchors, references)
    check(kernels, "sm_90", tensors, dtype)


@each_dtype
def test_strided_tokens(kernels, dtype):
    """As a linear layer leaves them, and where rows begin anywhere."""
    x, *parameters = (t.detach() for t in random_tensors(2, 70, 3, 32, 32, 20))
    x = x.to(dtype)
    kernels.imitate("sm_90", seed=0)
    expected = run([x, *parameters], dtype, attend=kernels.set_attention)
    for first in (8, 3):  # rows that can be read 16 bytes at once, and others
        view = torch.zeros(2, 70, 3, 48, dtype=dtype)[..., first : first + 32].copy_(x)
        actual = run([view, *parameters], dtype, attend=kernels.set_attention)
        for a, b in zip(actual, expected):
            assert torch.equal(a, b)


@each_dtype
@pytest.mark.parametrize("num_iters", [0, 1, 7])
def test_small_epsilons_stay_finite(kernels, num_iters, dtype):
    tensors = [t.detach() for t in random_tensors(1, 300, 1, 32, 32, 16)]
    kernels.imitate("sm_90", seed=0)
    fields = dict(epsilon=1e-3, num_iters=num_iters)
    for t in run(tensors, dtype, attend=kernels.set_attention, **fields):
        assert t.isfinite().all()


def test_iterations_that_leave_the_range_of_float_are_refused(kernels):
    tensors = random_tensors(1, 300, 1, 32, 32, 16, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="arithmetic in float"):
        kernels.set_attention(*tensors, epsilon=1e-3, num_iters=8)


def test_zero_tokens_and_extreme_norms_stay_finite(kernels):
    tensors = [t.detach() for t in random_tensors(1, 70, 1, 32, 32, 20)]
    x, *parameters = tensors
    for dtype in DTYPES:
        largest = torch.finfo(dtype).max
        values = x.clone()
        values[:, ::3] = 0
        values[:, 1::3] *= torch.finfo(dtype).tiny
        values[:, 2] *= largest / 2 / values[:, 2].norm()
        inputs = [values.to(dtype).requires_grad_(), *parameters]
        kernels.imitate("sm_90", seed=0)
        out = kernels.set_attention(*inputs)
        assert out.isfinite().all()
    # NaN is not hidden.
    inputs[0].data[0, 5, 0, 0] = float("nan")
    assert kernels.set_attention(*inputs).isnan().any()


def test_an_empty_batch_has_zero_gradients(kernels):
    x, *parameters = random_tensors(0, 70, 2, 32, 32, 20)
    x = x.detach().float().requires_grad_()
    out = kernels.set_attention(x, *parameters)
    out.sum().backward()
    assert out.shape == (0, 70, 2, 32)
    assert all(not p.grad.any() for p in parameters)


# What would go wrong on a GPU must go wrong here.
BUGS = {
    "no barrier before staged rows are read": (
        "forward.cuh",
        "block.features(tile));\n      __syncthreads();",
        "block.features(tile));",
    ),
    "no barrier before they are written again": (
        "backward.cuh",
        "block.features(stage), C::kWidthStride);\n      __syncthreads();",
        "block.features(stage), C::kWidthStride);",
    ),
    "no barrier between the phases of a launch": (
        "launch.h",
        "if (phase + 1 < last) pass.block.leave();",
        "",
    ),
    "a wrong column of an operand": ("rows.cuh", "col % (n / 4) / 2", "col % 8 / 2"),
    "a wrong row": (
        "rows.cuh",
        "row_of_thread() + 8 * r;",
        "row_of_thread() + 4 * r;",
    ),
    "a block that does not wait for the last": (
        "block.cuh",
        "== unsigned(count - 1)",
        "== unsigned(count - 2)",
    ),
    "a shuffle that some threads leave out": (
        "strip.cuh",
        "sum = sum_of(rows, r);",
        "sum = place.exists(r) ? sum_of(rows, r) : 1.0f;",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_found(bug, tmp_path):
    name, right, wrong = BUGS[bug]
    csrc = Path(shutil.copytree(CSRC, tmp_path / "csrc"))
    source = csrc / "cuda" / name
    assert source.read_text().count(right) == 1
    source.write_text(source.read_text().replace(right, wrong))
    kernels = compile_kernels(tmp_path, csrc, "-DFAMILY_ALONE")
    # Many blocks without clusters, and several blocks that keep what they need.
    tensors = random_tensors(1, 603, 1, 32, 32, 16)
    with pytest.raises((AssertionError, RuntimeError)):
        for device in ("sm_86", "sm_90"):
            check(kernels, device, tensors, torch.bfloat16)
