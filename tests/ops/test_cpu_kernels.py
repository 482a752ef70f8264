"""The compiled CPU kernels against the reference in float64: output, every gradient."""

import os
import subprocess
import sys

import pytest
import torch

from setformer_mm.ops import set_attention

from .compiled import needs_extension
from .problems import GEOMETRIES, random_tensors
from .random_cases import NAMES, check_case, errors, random_case, run

pytestmark = [needs_extension, pytest.mark.usefixtures("poisoned_memory")]

KERNELS_VARIABLE = "SETFORMER_MM_CPU_KERNELS"
KERNELS = ("baseline", "avx2", "avx512")  # each runs where the next one does


def check_random_cases(count: int, max_tokens: int, max_heads: int) -> None:
    for _ in range(count):
        tensors, fields = random_case(max_tokens, max_heads)
        for dtype in (torch.float32, torch.bfloat16):
            check_case(tensors, fields, dtype, backend="cpu")


def test_random_cases_agree_with_float64():
    check_random_cases(count=40, max_tokens=300, max_heads=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_500_random_cases_agree_with_float64():
    check_random_cases(count=500, max_tokens=5000, max_heads=32)


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_instruction_set(kernels):
    """What this machine cannot run is passed over for the next one below."""
    here = f"{__file__}::test_random_cases_agree_with_float64"
    environment = os.environ | {KERNELS_VARIABLE: kernels}
    script = (
        "import sys, pytest; from setformer_mm.ops import extension;"
        "print(extension.INSTRUCTION_SET); sys.exit(pytest.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "-q", "-p", "no:cacheprovider", here],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.split()[0] in KERNELS[: KERNELS.index(kernels) + 1]


# Tiles of so many tokens are not kept but computed again in each pass.
LARGE = 260 * 260


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_large_heads_are_recomputed(geometry):
    fields = dict(tau=None) if geometry == "no positions" else {}
    if geometry == "image":
        fields = dict(spatial_shape=(260, 260), reference_shape=(4, 6))
    tensors = [
        t.detach()
        for t in random_tensors(
            batch=1, tokens=LARGE, heads=1, dim=32, anchors=32, references=24
        )
    ]
    tensors[0] = tensors[0].float().double()
    expected = run(tensors, torch.float64, backend="reference", **fields)
    actual = run(tensors, torch.float32, backend="cpu", **fields)
    for name, error in errors(actual, expected, epsilon=0.01).items():
        assert error < (1e-5 if name == "out" else 1e-4), name


@pytest.mark.parametrize("tokens, heads", [(70, 9), (700, 5), (3000, 1), (LARGE, 1)])
def test_results_do_not_depend_on_the_number_of_threads(tokens, heads):
    """Whether heads, or the tokens of a head, are shared out among threads."""
    tensors = random_tensors(1, tokens, heads, 32, anchors=32, references=20)
    tensors = [t.detach() for t in tensors]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(tensors, torch.float32, backend="cpu")
        for count in (2, 3, 8):
            torch.set_num_threads(count)
            for a, b in zip(run(tensors, torch.float32, backend="cpu"), alone):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batches_are_sums_of_images(dtype):
    tensors = [t.detach() for t in random_tensors(30, 40, 2, 16, 16, 9)]
    together = run(tensors, dtype, backend="cpu")
    x, *parameters = tensors
    inputs = [t.clone().requires_grad_() for t in parameters]
    generator = torch.Generator().manual_seed(0)
    grads = torch.randn(together[0].shape, generator=generator).to(dtype)
    for i in range(len(x)):
        out = set_attention(x[i : i + 1].to(dtype), *inputs, backend="cpu")
        assert torch.equal(out, together[0][i : i + 1])
        out.backward(grads[i : i + 1])
    for a, p in zip(together[2:], inputs):
        torch.testing.assert_close(a, p.grad, rtol=1e-9, atol=1e-9)


def test_tokens_in_any_layout():
    x, *parameters = (t.detach().float() for t in random_tensors(2, 50, 3, 16, 16, 10))
    expected = run([x, *parameters], torch.float32, backend="cpu")
    for permutation in ((0, 2, 1, 3), (2, 1, 0, 3), (3, 0, 1, 2)):
        back = [permutation.index(i) for i in range(4)]
        other = x.permute(permutation).contiguous().permute(back)
        assert not other.is_contiguous()
        actual = run([other, *parameters], torch.float32, backend="cpu")
        for a, e in zip(actual, expected):
            assert torch.equal(a, e)


def test_expanded_output_gradients():
    x, *parameters = random_tensors(2, 50, 3, 16, 16, 10)
    out = set_attention(x.float(), *parameters, backend="cpu")
    summed = torch.autograd.grad(out.sum(), [x, *parameters], retain_graph=True)
    given = torch.autograd.grad(out, [x, *parameters], torch.ones_like(out))
    for a, b in zip(summed, given):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", [1e-20, 1e-3, 1e3, 1e20])
def test_norms_of_any_size(norm, dtype):
    if dtype == torch.float16 and not 1e-4 < norm < 6e4:
        norm = max(1e-3, min(norm, 6e4))
    x, *parameters = (t.detach() for t in random_tensors(1, 64, 2, 16, 16, 9))
    x = x / x.norm(dim=-1, keepdim=True) * norm
    x[:, ::9] = 0
    tensors = [x.to(dtype).double(), *parameters]
    actual = run(tensors, dtype, backend="cpu")
    expected = run(tensors, torch.float64, backend="reference")
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert a.isfinite().all()
        assert (a.double() - e).norm() <= 2e-2 * e.norm(), name
    assert not actual[1][:, ::9].any()


def test_largest_norms():
    x, *parameters = (t.detach() for t in random_tensors(1, 40, 2, 16, 16, 9))
    x = x / x.norm(dim=-1, keepdim=True) * 3e38
    with torch.no_grad():
        out = set_attention(x.float(), *parameters, backend="cpu")
        expected = set_attention(x, *parameters, backend="reference")
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e33)


def test_nan_is_not_hidden():
    x, *parameters = (t.detach() for t in random_tensors(1, 40, 2, 16, 16, 9))
    x[0, 7, 1, 3] = torch.nan
    out = set_attention(x.float(), *parameters, backend="cpu")
    assert out[:, :, 1].isnan().all()
    assert out[:, :, 0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_to_nearest(dtype):
    """Against torch's own conversion of what float32 tokens give."""
    x, *parameters = (t.detach() for t in random_tensors(2, 60, 2, 16, 16, 9))
    for scale in (1e-6, 1e-3, 1.0, 1e3):
        rounded = (x * scale).to(dtype)
        if rounded.float().norm(dim=-1).min() < 1e-4:
            continue  # counts as zero in float16
        out = set_attention(rounded, *parameters, backend="cpu")
        expected = set_attention(rounded.float(), *parameters, backend="cpu").to(dtype)
        assert torch.equal(out, expected)


def test_empty_batch():
    x = torch.randn(0, 5, 2, 16, requires_grad=True)
    _, *parameters = random_tensors(1, 5, 2, 16, 16, 9)
    out = set_attention(x, *parameters, backend="cpu")
    assert out.shape == x.shape
    for grad in torch.autograd.grad(out.sum(), [x, *parameters]):
        assert not grad.any()
