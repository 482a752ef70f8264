"""The operator and the backbone on a GPU: agreement with float64 on the CPU."""

import pytest
import torch
from torch import Tensor

from setformer_mm.ops import Folded, fold, set_attention, set_attention_folded
from setformer_mm.ops.registration import Fields

from .compiled import needs_cuda_kernels
from .problems import GEOMETRIES, random_tensors
from .random_cases import check_case, random_case, run

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available()"
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
poisoned = pytest.mark.usefixtures("poisoned_memory")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.cpu().double() - expected).norm() / expected.norm()).item()


def detached_tensors(*args, **sizes) -> list[Tensor]:
    return [t.detach() for t in random_tensors(*args, **sizes)]


def folded_case(tokens=700, heads=3) -> tuple[Tensor, Folded]:
    """Tokens and folded parameters on the GPU."""
    x, *parameters = (t.cuda() for t in detached_tensors(2, tokens, heads, 32, 32, 16))
    return x.float(), fold(*parameters, 2.0)


def attend(x: Tensor, folded: Folded, backend="cuda", **options) -> Tensor:
    with torch.no_grad():
        return set_attention_folded(x, folded, backend=backend, **options)


def check_random_cases(count: int, max_tokens: int, max_heads: int) -> None:
    for _ in range(count):
        # More iterations might take scalings out of float's range: see csrc/problem.h.
        tensors, fields = random_case(max_tokens, max_heads, max_iters=4)
        for dtype in DTYPES:
            check_case(tensors, fields, dtype, backend="cuda", device="cuda")


@needs_cuda_kernels
@poisoned
@pytest.mark.timeout(600)
def test_random_cases_agree_with_float64():
    check_random_cases(count=30, max_tokens=3000, max_heads=3)


@needs_cuda_kernels
@poisoned
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_500_random_cases_agree_with_float64():
    check_random_cases(count=500, max_tokens=10000, max_heads=16)


@needs_cuda_kernels
@poisoned
@each_dtype
@pytest.mark.parametrize(
    "dim, anchors, references",
    [
        (1, 1, 1),
        (5, 4, 6),
        (32, 32, 16),
        (32, 32, 17),
        (32, 33, 64),
        (33, 20, 65),
        (64, 64, 128),
    ],
)
def test_any_size_of_a_head(dim, anchors, references, dtype):
    for tokens in (1, 63, 64, 65, 500):
        tensors = detached_tensors(2, tokens, 2, dim, anchors, references)
        check_case(tensors, {}, dtype, backend="cuda", device="cuda")


@needs_cuda_kernels
@poisoned
@each_dtype
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_large_heads_agree_with_float64(geometry, dtype):
    """So large that nothing is kept between phases."""
    fields = dict(tau=None) if geometry == "no positions" else {}
    if geometry == "image":
        fields = dict(spatial_shape=(260, 260), reference_shape=(4, 4))
    tensors = detached_tensors(1, 260 * 260, 1, 32, 32, 16)
    check_case(tensors, fields, dtype, backend="cuda", device="cuda")


@needs_cuda_kernels
@poisoned
def test_batches_are_sums_of_images():
    x, *parameters = detached_tensors(6, 40, 2, 16, 16, 9)
    together, *_ = run([x, *parameters], torch.float32, "cuda", backend="cuda")
    for i in range(len(x)):
        alone, *_ = run(
            [x[i : i + 1], *parameters], torch.float32, "cuda", backend="cuda"
        )
        assert torch.equal(alone, together[i : i + 1])


@needs_cuda_kernels
@poisoned
@each_dtype
def test_tokens_in_any_layout(dtype):
    x, *parameters = (t.cuda() for t in detached_tensors(2, 150, 3, 32, 32, 10))
    x = x.to(dtype)
    expected = run([x, *parameters], dtype, "cuda", backend="cuda")
    padded = torch.empty(2, 150, 3, 35, dtype=dtype, device="cuda")
    padded[..., 1:33] = x  # its rows are not aligned
    views = [padded[..., 1:33]]
    for permutation in ((0, 2, 1, 3), (2, 1, 0, 3), (3, 0, 1, 2)):
        back = [permutation.index(i) for i in range(4)]
        views.append(x.permute(permutation).contiguous().permute(back))
    for view in views:
        assert not view.is_contiguous()
        for a, e in zip(
            run([view, *parameters], dtype, "cuda", backend="cuda"), expected
        ):
            assert torch.equal(a, e)


@needs_cuda_kernels
@poisoned
def test_expanded_output_gradients():
    x, *parameters = (t.detach().cuda() for t in random_tensors(2, 50, 3, 16, 16, 10))
    inputs = [t.requires_grad_() for t in (x.float(), *parameters)]
    out = set_attention(*inputs, backend="cuda")
    summed = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
    given = torch.autograd.grad(out, inputs, torch.ones_like(out))
    for a, b in zip(summed, given):
        assert torch.equal(a, b)


@needs_cuda_kernels
def test_nan_is_not_hidden():
    x, folded = folded_case()
    x[0, 7, 1, 3] = torch.nan
    out = attend(x, folded)
    assert out[0, :, 1].isnan().all()
    assert out[1].isfinite().all()
    assert out[0, :, 0].isfinite().all()


@needs_cuda_kernels
def test_empty_batch():
    _, *parameters = (t.detach().cuda() for t in random_tensors(1, 5, 2, 16, 16, 9))
    inputs = [
        t.requires_grad_() for t in (torch.empty(0, 5, 2, 16).cuda(), *parameters)
    ]
    out = set_attention(*inputs, backend="cuda")
    assert out.shape == inputs[0].shape
    for grad in torch.autograd.grad(out.sum(), inputs):
        assert not grad.any()


@needs_cuda_kernels
def test_kernels_run_on_the_current_stream():
    x, folded = folded_case()
    expected = attend(x, folded)
    late = torch.zeros_like(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(x)
        actual = attend(late, folded)
    stream.synchronize()
    assert torch.equal(actual, expected)


@needs_cuda_kernels
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_on_the_device_of_the_tokens():
    x, folded = folded_case()
    elsewhere = Folded(*(t.to("cuda:1") for t in folded[:3]), folded.alpha)
    with torch.cuda.device(0):
        actual = attend(x.to("cuda:1"), elsewhere)
        assert torch.cuda.current_device() == 0
    assert actual.device == torch.device("cuda:1")
    torch.testing.assert_close(actual.cpu(), attend(x, folded).cpu())


@needs_cuda_kernels
def test_maps_elsewhere_are_refused():
    x, folded = folded_case()
    fields = Fields(0, 0, 0, 0, 2.0, 0.01, 3, 0.5)
    maps = folded.anchors.cpu(), folded.score_maps, folded.value_map
    with pytest.raises(RuntimeError, match="anchors must be on x's device"):
        torch.ops.setformer_mm.set_attention_forward(x, *maps, None, *fields)


@needs_cuda_kernels
@poisoned
@pytest.mark.parametrize("tokens", [100, 20_000])
def test_captured_graph_is_replayed_with_other_tokens(tokens):
    x, folded = folded_case(tokens)
    attend(x, folded)  # what is set up at first use is not to be captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(x, folded)
    for _ in range(2):
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert torch.equal(out, attend(x, folded))


@needs_cuda_kernels
@each_dtype
def test_opcheck_is_clean(dtype):
    x, folded = folded_case(tokens=30)
    inputs = x.to(dtype), *folded[:3]
    fields = Fields(5, 6, 4, 4, folded.alpha, 0.01, 2, 0.5)
    operators = torch.ops.setformer_mm
    with_grad = [t.clone().requires_grad_() for t in inputs]
    for valid in (None, torch.tensor([[3, 6]] * len(x), device=x.device)):
        out, *saved = operators.set_attention_forward(*inputs, valid, *fields)
        torch.library.opcheck(
            operators.set_attention_forward.default, (*with_grad, valid, *fields)
        )
        torch.library.opcheck(
            operators.set_attention_backward.default,
            (torch.randn_like(out), *inputs, *saved, valid, *fields),
        )


@needs_cuda_kernels
@poisoned
@each_dtype
@pytest.mark.parametrize("grid", [(9, 11), (140, 150)])
def test_valid_parts_are_those_of_the_reference(dtype, grid):
    """Clusters that keep tiles, and heads of many launches; no value comes back."""
    x, folded = folded_case(grid[0] * grid[1])
    x = x.to(dtype)
    valid = torch.tensor([[7, 5]] * len(x), device=x.device)
    options = dict(spatial_shape=grid, reference_shape=(4, 4), valid_shape=valid)
    out = attend(x, folded, **options)
    exact = Folded(*(t.cpu() for t in folded[:3]), folded.alpha)
    options["valid_shape"] = valid.cpu()
    expected = attend(x.cpu().double(), exact, backend="reference", **options)
    assert relative_error(out, expected) < (1e-5 if dtype.itemsize == 4 else 2e-2)


@needs_cuda_kernels
@pytest.mark.timeout(600)
def test_compiles_into_one_graph():
    torch.compiler.reset()
    x, folded = folded_case()

    def layer(x: Tensor) -> Tensor:
        return set_attention_folded(2 * x, folded, backend="cuda").relu()

    compiled = torch.compile(layer, fullgraph=True)
    results = []
    for function in (compiled, layer):
        tokens = x.clone().requires_grad_()
        out = function(tokens)
        results.append([out, *torch.autograd.grad(out.square().sum(), tokens)])
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected)


IMAGE = dict(spatial_shape=(13, 11), reference_shape=(6, 5))
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@each_dtype
@pytest.mark.parametrize("epsilon", [0.1, 0.01])
@pytest.mark.parametrize("geometry", [IMAGE, {}, dict(tau=None)])
def test_reference_agrees_with_float64(dtype, epsilon, geometry):
    tensors = [t.float() for t in detached_tensors(2, 143, 3, 32, 32, 30)]
    tensors[0] = tensors[0].to(dtype).float()
    fields = dict(epsilon=epsilon, backend="reference", **geometry)
    expected = run([t.double() for t in tensors], torch.float64, **fields)
    actual = run(tensors, dtype, "cuda", **fields)
    for i, (a, e) in enumerate(zip(actual, expected)):
        # Half-precision gradients are those of the rounded output's computation.
        assert relative_error(a, e) < TOLERANCES[dtype] * (10 if i else 1)


def test_backbone_under_autocast_stays_close_to_float32():
    models = pytest.importorskip("setformer_mm.models")
    arch = dict(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), mlp_ratio=2)
    model = models.SeTformer(arch).cuda()
    images = torch.randn(2, 3, 97, 131, device="cuda")
    expected = model(images)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype=dtype):
            outs = model(images)
        sum(out.float().square().mean() for out in outs).backward()
        for out, reference in zip(outs, expected):
            assert relative_error(out, reference.detach().cpu().double()) < 3e-2
    assert all(p.grad.isfinite().all() for p in model.parameters())
