"""What bench_op.py compares, and the formulas that it must agree with.

A contender belongs to a family, which all get the same tensors and are checked against
the same formula in float64.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from torch import Tensor
from torch.nn import functional as F

from setformer_mm.ops import Folded, available_backends, fold, set_attention_folded

from ..timing import Call
from .opponents import agent_attention, eager_attention, position_weights, pot_plan
from .problems import Problem

try:
    import ot.batch  # noqa: F401
except ImportError:
    POT_MISSING = "POT 0.9.6 or newer is not installed"
else:
    POT_MISSING = None

FORWARD, BOTH = "forward", "forward + backward"
DIRECTIONS = FORWARD, BOTH
ALPHA, EPSILON, NUM_ITERS, TAU = 2.0, 0.01, 1, 0.5
# POT's batched solver does not shift scores: it needs an epsilon that float32 can bear.
POT_EPSILON = 0.1
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)

# What output and gradients may differ by from float64, relative to their norm.
TOLERANCES = {
    torch.float32: {FORWARD: 1e-5, BOTH: 1e-4},
    torch.bfloat16: {FORWARD: 2e-2, BOTH: 2e-2},
}
# Both passes in float64 take too long beyond so many tokens.
MOST_TOKENS_BOTH = 16384

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Family:
    """Contenders that compute the same thing.

    Attributes:
        inputs: Makes the tensors of a problem, of which the first has the shape and
            dtype of the output.
        exact: Makes the formula, for tensors in float64 of which it gets the first.
        most_tokens: The formula is not evaluated for more tokens than this.
        growth: Cost grows like this power of the number of tokens.
    """

    inputs: Callable[[Problem, torch.dtype], list[Tensor]]
    exact: Callable[[Problem, Tensor], Function]
    most_tokens: float
    growth: int


@dataclass(frozen=True)
class Contender:
    """What gets a column in the tables.

    Attributes:
        family: What it computes.
        function: Makes what is measured, for a problem and the first of its tensors.
        slack: Factor on the tolerances of its error.
        narrow: Whether it gets float32 where others get the float64 of a fold.
        missing: Why it cannot be measured here, if so and no backend.
    """

    family: Family
    function: Callable[[Problem, Tensor], Function]
    slack: float = 1
    narrow: bool = False
    missing: str | None = None


def set_inputs(problem: Problem, dtype: torch.dtype) -> list[Tensor]:
    """Tokens, and folded maps of random anchors and two sets of references."""
    heads, dim = problem.heads, problem.dim
    x = torch.randn(problem.batch, problem.tokens, heads, dim).to(dtype)
    anchors = torch.randn(heads, dim, dim)
    sets = torch.randn(2, heads, problem.references, dim)
    return [x, *fold(anchors, *sets, ALPHA)[:3]]


def softmax_inputs(problem: Problem, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values, in the layout of :func:`set_inputs`."""
    shape = problem.batch, problem.tokens, problem.heads, problem.dim
    return [torch.randn(shape).to(dtype) for _ in range(3)]


def plan_inputs(problem: Problem, dtype: torch.dtype) -> list[Tensor]:
    """Scores of all heads and images."""
    problems = problem.batch * problem.heads
    return [torch.rand(problems, problem.tokens, problem.references)]


def through_op(problem: Problem, like: Tensor, backend: str) -> Function:
    """The operator."""
    spatial_shape, reference_shape = problem.grids

    def function(x: Tensor, *maps: Tensor) -> Tensor:
        return set_attention_folded(
            x,
            Folded(*maps, ALPHA),
            spatial_shape=spatial_shape,
            reference_shape=reference_shape,
            epsilon=EPSILON,
            num_iters=NUM_ITERS,
            tau=TAU,
            backend=backend,
        )

    return function


def through_compiler(problem: Problem, like: Tensor) -> Function:
    """The reference under ``torch.compile``, for this problem alone."""
    if problem not in _compiled:
        # From its limit on, the compiler runs code as it is, and does not say so.
        torch._dynamo.config.recompile_limit = 1000
        function = through_op(problem, like, REFERENCE)
        _compiled[problem] = torch.compile(function, dynamic=False)
    return _compiled[problem]


_compiled: dict[Problem, Function] = {}  # compiling takes from ten seconds to a minute


def through_eager(problem: Problem, like: Tensor) -> Function:
    """The eager form; position weights are there before time is taken."""
    like = like.to(torch.promote_types(like.dtype, torch.float32))
    weights = position_weights(*problem.grids, TAU, like)
    fields = weights, ALPHA, EPSILON, NUM_ITERS
    return lambda x, *maps: eager_attention(x, *maps, *fields)


def sdpa(problem: Problem, like: Tensor) -> Function:
    """PyTorch's softmax attention."""
    return _with_heads_first(F.scaled_dot_product_attention)


def dense_softmax(problem: Problem, like: Tensor) -> Function:
    """Its formula."""
    return _with_heads_first(_softmax_attention)


def agents(problem: Problem, like: Tensor) -> Function:
    """Softmax attention through agents, as many as references."""
    spatial_shape, agent_shape = problem.grids
    return _with_heads_first(
        partial(agent_attention, spatial_shape=spatial_shape, agent_shape=agent_shape)
    )


def dense_agents(problem: Problem, like: Tensor) -> Function:
    """Its formula, pooling with a matrix."""

    def averages(size: int, bins: int) -> Tensor:
        """The matrix that averages ``size`` numbers in bins."""
        matrix = like.new_zeros(bins, size)
        for i, row in enumerate(matrix):
            begin, end = i * size // bins, -(-(i + 1) * size // bins)
            row[begin:end] = 1 / (end - begin)
        return matrix

    pool = torch.kron(*map(averages, *problem.grids))

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        agents = pool @ q
        return _softmax_attention(q, agents, _softmax_attention(agents, k, v))

    return _with_heads_first(function)


def pot(problem: Problem, like: Tensor) -> Function:
    """POT's batched Sinkhorn."""
    return partial(pot_plan, epsilon=POT_EPSILON, num_iters=NUM_ITERS)


def dense_plan(problem: Problem, like: Tensor) -> Function:
    """Its formula, on logarithms."""

    def function(scores: Tensor) -> Tensor:
        log_plan = scores / POT_EPSILON
        for _ in range(NUM_ITERS + 1):
            log_plan = log_plan.log_softmax(2) - math.log(problem.tokens)
            log_plan = log_plan.log_softmax(1) - math.log(problem.references)
        return log_plan.exp()

    return function


def _with_heads_first(attention: Function) -> Function:
    """For ``(B, N, h, D)`` tensors what ``attention`` is for ``(B, h, N, D)``."""
    return lambda *qkv: attention(*(t.transpose(1, 2) for t in qkv)).transpose(1, 2)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


SET = Family(set_inputs, partial(through_op, backend="reference"), math.inf, growth=1)
SOFTMAX = Family(softmax_inputs, dense_softmax, 1024, growth=2)
AGENTS = Family(softmax_inputs, dense_agents, 1024, growth=1)
PLAN = Family(plan_inputs, dense_plan, 1024, growth=1)

REFERENCE, COMPILED = "reference", "compiled reference"
EAGER = "eager"
SDPA, AGENT, POT = "SDPA", "agent attention", "POT, plan alone"

CONTENDERS = {
    **{
        name: Contender(SET, partial(through_op, backend=name))
        for name in available_backends()
    },
    COMPILED: Contender(SET, through_compiler),
    # It sums over all tokens one after the other, in float32.
    EAGER: Contender(SET, through_eager, slack=100, narrow=True),
    SDPA: Contender(SOFTMAX, sdpa),
    AGENT: Contender(AGENTS, agents),
    POT: Contender(PLAN, pot, missing=POT_MISSING),
}


def prepare(
    name: str,
    problem: Problem,
    direction: str,
    device: str,
    dtype: torch.dtype,
    copies: int = 1,
) -> Call:
    """Make the call of a contender, which returns the output and any gradients.

    Calls take turns with ``copies`` of the inputs, of which each has memory of its own,
    so that none finds them in a cache where the last one left them.
    """
    contender = CONTENDERS[name]
    inputs = make_inputs(contender.family, problem, device, dtype)
    if contender.narrow:
        inputs = [t.float() if t.dtype == torch.float64 else t for t in inputs]
    function = contender.function(problem, inputs[0])
    sets = [inputs, *([t.clone() for t in inputs] for _ in range(copies - 1))]
    calls = cycle([bind(function, tensors, direction) for tensors in sets])
    return lambda: next(calls)()


def make_inputs(
    family: Family, problem: Problem, device: str, dtype: torch.dtype
) -> list[Tensor]:
    """The same tensors for every contender of a family, with a gradient at the end."""
    torch.manual_seed(0)
    inputs = family.inputs(problem, dtype)
    inputs.append(torch.randn_like(inputs[0]))
    return [t.to(device) for t in inputs]


def bind(function: Function, inputs: list[Tensor], direction: str) -> Call:
    """A call of ``function`` on ``inputs``, the last of which is a gradient."""
    *inputs, grad_out = inputs
    if direction == FORWARD:
        return lambda: [torch.no_grad()(function)(*inputs)]
    for tensor in inputs:
        tensor.requires_grad_()

    def both_passes() -> list[Tensor]:
        out = function(*inputs)
        return [out, *torch.autograd.grad(out, inputs, grad_out)]

    return both_passes


def check(
    names: list[str],
    problem: Problem,
    direction: str,
    device: str,
    dtype: torch.dtype,
) -> Iterator[tuple[str, float]]:
    """Compare contenders with their formulas.

    Yields:
        tuple[str, float]: A contender, and its largest error as a share of what is
        tolerated.
    """
    exact: dict[Family, list[Tensor]] = {}
    for name in names:
        family = CONTENDERS[name].family
        most_tokens = family.most_tokens
        if direction == BOTH:
            most_tokens = min(most_tokens, MOST_TOKENS_BOTH)
        if problem.tokens > most_tokens:
            continue
        if family not in exact:
            inputs = make_inputs(family, problem, device, dtype)
            inputs = [t.double() for t in inputs]
            function = family.exact(problem, inputs[0])
            exact[family] = bind(function, inputs, direction)()
        tolerance = TOLERANCES[dtype][direction] * CONTENDERS[name].slack
        actual = prepare(name, problem, direction, device, dtype)()
        errors = (
            ((a.double() - b).norm() / b.norm()).item()
            for a, b in zip(actual, exact[family], strict=True)
        )
        # NaN, which compares as neither larger nor smaller, counts as the largest.
        yield name, max(e if e == e else math.inf for e in errors) / tolerance
