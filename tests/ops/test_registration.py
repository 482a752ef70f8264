"""What torch knows of the compiled operators: schemas, fakes, gradients, counts."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from setformer_mm.ops import Folded, fold, set_attention_folded
from setformer_mm.ops.flops import backward_multiply_adds, forward_multiply_adds
from setformer_mm.ops.registration import Fields

from .compiled import needs_extension
from .problems import GEOMETRIES, random_problem, relative_error

pytestmark = needs_extension

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)


def random_call(
    geometry="image", dtype=torch.float32, num_iters=2, padded=False, **sizes
):
    """Arguments of the forward operator, and of the backward operator after it."""
    (x, *parameters), shapes = random_problem(geometry, **sizes)
    tau = shapes.pop("tau", 0.5) or 0.0
    grids = (side for shape in shapes.values() for side in shape)
    fields = Fields(
        *(grids if shapes else (0, 0, 0, 0)),
        alpha=2.0,
        epsilon=0.01,
        num_iters=num_iters,
        tau=tau,
    )
    maps = fold(*(p.detach() for p in parameters), fields.alpha)[:3]
    valid = None
    if padded:
        most = torch.tensor(shapes.get("spatial_shape", (x.shape[1], 1)))
        valid = (torch.rand(len(x), 2) * (most + 1)).long()
    inputs = x.detach().to(dtype), *maps, valid
    out, *saved = torch.ops.setformer_mm.set_attention_forward(*inputs, *fields)
    grad_out = torch.randn(out.shape).to(dtype)
    return (*inputs, *fields), (grad_out, *inputs[:4], *saved, valid, *fields)


def requiring_grad(args: tuple) -> tuple:
    return tuple(
        a.detach().requires_grad_()
        if isinstance(a, Tensor) and a.is_floating_point()
        else a
        for a in args
    )


def forward(args: tuple) -> tuple[Tensor, ...]:
    return torch.ops.setformer_mm.set_attention_forward(*args)


def backward(args: tuple) -> tuple[Tensor, ...]:
    return torch.ops.setformer_mm.set_attention_backward(*args)


@each_dtype
@each_geometry
@pytest.mark.parametrize("num_iters, padded", [(0, True), (3, False)])
def test_opcheck_is_clean(dtype, geometry, num_iters, padded):
    args, backward_args = random_call(geometry, dtype, num_iters, padded)
    operators = torch.ops.setformer_mm
    torch.library.opcheck(operators.set_attention_forward.default, args)
    torch.library.opcheck(operators.set_attention_forward.default, requiring_grad(args))
    torch.library.opcheck(operators.set_attention_backward.default, backward_args)


def test_fake_results_have_the_shapes_of_the_real_ones():
    args, backward_args = random_call(dtype=torch.bfloat16)
    for operator, given in ((forward, args), (backward, backward_args)):
        meta = (a.to("meta") if isinstance(a, Tensor) else a for a in given)
        for fake, real in zip(operator(meta), operator(given), strict=True):
            assert fake.is_meta
            for attribute in ("shape", "dtype"):
                assert getattr(fake, attribute) == getattr(real, attribute)
            assert fake.stride() == real.stride()


@each_geometry
def test_tokens_are_read_in_any_layout(geometry):
    (x, *rest), (grad_out, *backward_rest) = random_call(geometry)
    batch, num_tokens, heads, dim = x.shape
    channels_last = x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    by_head = x.transpose(1, 2).contiguous().transpose(1, 2)
    padded = x.new_full((batch, num_tokens, heads, dim + 3), torch.nan)
    padded[..., :dim] = x
    assert channels_last.stride(-1) != 1
    expected, *_ = forward((x, *rest))
    for view in (channels_last, by_head, padded[..., :dim]):
        assert torch.equal(forward((view, *rest))[0], expected)
    expected = backward((grad_out, *backward_rest))
    strided = grad_out.transpose(1, 3).contiguous().transpose(1, 3)
    for actual, e in zip(backward((strided, *backward_rest)), expected):
        assert torch.equal(actual, e)


def test_gradient_of_a_sum_is_that_of_ones():
    """Its gradient is one number, expanded."""
    args, (_, *rest) = random_call()
    inputs = requiring_grad(args)
    out, *_ = forward(inputs)
    ones = torch.ones_like(out)
    actual = torch.autograd.grad(out.sum(), inputs[:4])
    for a, e in zip(actual, backward((ones, *rest))):
        assert torch.equal(a, e)


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_no_gradient_stays_none():
    args, _ = random_call()
    inputs = requiring_grad(args)
    out, *_ = forward(inputs)
    NoGradient.apply(out).sum().backward()
    assert [t.grad for t in inputs[:4]] == [None] * 4


def test_what_is_kept_for_the_backward_pass_has_no_gradient():
    args, _ = random_call()
    out, *saved = forward(requiring_grad(args))
    assert out.requires_grad
    assert not any(t.requires_grad for t in saved)


def test_batch_may_be_empty():
    args, (_, *rest) = random_call(batch=0)
    inputs = requiring_grad(args)
    out, *_ = forward(inputs)
    grad_x, *grad_maps = torch.autograd.grad(out.sum(), inputs[:4])
    assert grad_x.shape == inputs[0].shape
    assert all(g.eq(0).all() for g in grad_maps)


def test_second_derivatives_are_refused():
    args, _ = random_call()
    x, *rest = requiring_grad(args)
    out, *_ = forward((x, *rest))
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        grad.sum().backward()


def replaced(args: tuple, index: int, value) -> tuple:
    return *args[:index], value, *args[index + 1 :]


@pytest.mark.parametrize(
    "index, change, message",
    [
        (0, lambda x: x.int(), "x must be float32, .* got Int"),
        (0, lambda x: x[0], r"x must be \(B, N, h, D\), got 3 dimensions"),
        (0, lambda x: x[:, :0], "only the batch may be empty"),
        (1, lambda z: z.float(), "anchors must be Double, got Float"),
        (1, lambda z: z[..., :1], "anchors does not have the shape"),
        (1, lambda z: z[0], "anchors must be .h, K, D. and score_maps .h, K, 2 M."),
        (2, lambda g: g[:1, :1], "score_maps does not have the shape"),
        (3, lambda v: v[:, :1], "value_map does not have the shape"),
        (4, lambda _: torch.ones(1, 2), "valid must be Long, got Float"),
        (4, lambda _: torch.ones(9, 2).long(), "valid does not have the shape"),
        (5, lambda height: height + 1, "height . width must be N"),
        (5, lambda height: 0, "or all of them 0"),
        (9, lambda alpha: 0.0, "alpha and epsilon must be positive"),
        (11, lambda num_iters: -1, "num_iters and tau at least 0"),
    ],
)
def test_operator_checks_what_its_kernels_rely_on(index, change, message):
    args, _ = random_call()
    with pytest.raises(RuntimeError, match=message):
        forward(replaced(args, index, change(args[index])))


@pytest.mark.parametrize(
    "index, change, message",
    [
        (0, lambda g: g.double(), "grad_out must be Float, got Double"),
        (0, lambda g: g[:, :1], "grad_out does not have the shape"),
        (5, lambda s: s[..., :1], "scalings does not have the shape"),
        (6, lambda a: a.float(), "aggregates must be Double, got Float"),
    ],
)
def test_backward_operator_checks_what_its_kernels_rely_on(index, change, message):
    _, args = random_call()
    with pytest.raises(RuntimeError, match=message):
        backward(replaced(args, index, change(args[index])))


def test_counts_are_those_of_a_hand_count():
    x, score_maps = (2, 10, 3, 4), (3, 5, 12)  # B N h D and h K 2M
    features, scores, values = 10 * 4 * 5, 10 * 5 * 6, 6 * 5 * 5
    product_by_vector = 10 * 6
    # Both ways have scores and 2 products an iteration; one has a last update of rows.
    forward_by_head = features + 4 * scores + 9 * product_by_vector + values
    backward_by_head = 2 * forward_by_head - 2 * product_by_vector
    assert forward_multiply_adds(x, score_maps, 2) == 2 * 3 * forward_by_head
    assert backward_multiply_adds(x, score_maps, 2) == 2 * 3 * backward_by_head


@each_geometry
@pytest.mark.parametrize("num_iters", [0, 3])
def test_counts_are_those_of_the_matrix_products_of_the_reference(geometry, num_iters):
    """But for Sinkhorn's, which the reference sums up as logarithms."""
    (x, *parameters), shapes = random_problem(geometry)
    folded = fold(*(p.detach() for p in parameters), 2.0)

    def count(backend: str) -> list[int]:
        maps = requiring_grad(folded)
        operands = x.detach().requires_grad_(), Folded(*maps)
        counts = []
        with FlopCounterMode(display=False) as counter:
            out = set_attention_folded(
                *operands, num_iters=num_iters, backend=backend, **shapes
            )
            counts.append(counter.get_total_flops())
            out.sum().backward()
            counts.append(counter.get_total_flops())
        return counts

    batch, num_tokens, heads, _ = x.shape
    product = 2 * batch * num_tokens * heads * folded.num_references
    forward_products = (4 * num_iters + 1) * product
    backward_products = 2 * forward_products - 2 * product
    reference = count("reference")
    assert count("cpu") == [
        reference[0] + forward_products,
        reference[1] + forward_products + backward_products,
    ]


def attend(x: Tensor, folded: Folded, spatial_shape, backend="cpu") -> Tensor:
    grids = dict(spatial_shape=spatial_shape, reference_shape=(2, 3))
    return set_attention_folded(
        x, folded, backend=backend, **(grids if spatial_shape else {})
    )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("is_image", [True, False], ids=["image", "sequence"])
def test_compiles_into_one_graph(dynamic, is_image):
    torch.compiler.reset()
    graphs = []

    def backend(module, example_inputs):
        graphs.append(module)
        return module

    # Inductor would take a while, and adds nothing of this project.
    compiled = torch.compile(attend, fullgraph=True, dynamic=dynamic, backend=backend)
    folded = fold(torch.randn(2, 8, 16), *torch.randn(2, 2, 6, 16), 2.0)
    for grid in [(4, 5), (7, 6), (9, 12)]:
        x = torch.randn(3, grid[0] * grid[1], 2, 16)
        args = x, folded, grid if is_image else None
        assert torch.equal(compiled(*args), attend(*args))
    assert len(graphs) == (1 if dynamic else 3)
    for graph in graphs:
        calls = [n.target for n in graph.graph.nodes if n.op == "call_function"]
        assert "set_attention_forward" in str(calls)
        assert "exp" not in str(calls)


def test_compiled_gradients_are_the_eager_ones():
    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    folded = fold(torch.randn(2, 8, 16), *torch.randn(2, 2, 6, 16), 2.0)
    x = torch.randn(3, 20, 2, 16)
    gradients = []
    for function in (compiled, attend):
        x.requires_grad_()
        maps = requiring_grad(folded)
        out = function(x, Folded(*maps), (4, 5))
        gradients.append(torch.autograd.grad(out.square().sum(), (x, *maps[:3])))
    for actual, expected in zip(*gradients):
        assert torch.equal(actual, expected)


def test_autocast_changes_nothing_but_the_dtype_of_its_input():
    folded = fold(torch.randn(2, 8, 16), *torch.randn(2, 2, 6, 16), 2.0)
    x = torch.randn(3, 20, 2, 16)
    expected = attend(x, folded, (4, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(x, folded, (4, 5)), expected)
        half = attend(x.bfloat16(), folded, (4, 5))
    assert half.dtype == torch.bfloat16
    assert relative_error(half, expected) < 2e-2


def test_maps_may_come_in_float32_and_in_any_layout():
    folded = fold(torch.randn(2, 8, 16), *torch.randn(2, 2, 6, 16), 2.0).to(
        torch.float32
    )
    x = torch.randn(3, 20, 2, 16)
    expected = attend(x, folded.to(torch.float64), (4, 5))
    strided = Folded(*(t.mT.contiguous().mT for t in folded[:3]), folded.alpha)
    for given in (folded, strided):
        assert torch.equal(attend(x, given, (4, 5)), expected)
