"""What becomes a graph, of torch.jit, torch.export or torch.compile, holds for pictures
of all sizes, padded or not; and functions of models can be transformed.
"""

import pytest
import torch
from torch import Tensor, nn

from setformer_mm.models import SeTformer
from setformer_mm.ops.extension import why_not_to_load

from .test_padding import PADDED, batch_of, pictures

needs_extension = pytest.mark.skipif(
    why_not_to_load() is not None, reason=str(why_not_to_load())
)
each_backend = pytest.mark.parametrize(
    "backend", ["reference", pytest.param("cpu", marks=needs_extension)]
)
# More stages make longer formulas of the sizes, and every test here slow.
TWO_STAGES = dict(embed_dims=32, depths=(1, 1), num_heads=(1, 2), mlp_ratio=2)
# One with as many tokens as the traced one, in another order, and an odd one.
SIZES = (128, 48), PADDED, (133, 190)
_ONE_SIZE = "inductor of torch 2.11 trains for one size at a time (docs/operator.md)"


def build(backend: str = "auto", **kwargs) -> SeTformer:
    return SeTformer(TWO_STAGES, attention=dict(backend=backend), **kwargs)


def traced_images() -> Tensor:
    return torch.randn(2, 3, 64, 96)


def require_equal(graph, model: nn.Module) -> None:
    """Check a graph on padded pictures of all sizes."""
    for size in SIZES:
        whole = torch.randn(2, 3, *size)
        images = [p[:, : size[0], : size[1]] for p in pictures()]
        for batch in (whole, batch_of(images, size)):
            for actual, expected in zip(graph(batch), model(batch), strict=True):
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


@each_backend
@pytest.mark.parametrize("deployed", [True, False])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_traced(deployed, backend):
    """By torch.jit.trace, whose own checks trace a second time and compare."""
    model = build(backend).eval()
    if deployed:
        model.switch_to_deploy()
    require_equal(torch.jit.trace(model, traced_images()), model)


@pytest.mark.parametrize(
    "backend, training",
    [
        ("auto", True),
        ("auto", False),
        pytest.param("reference", False, marks=pytest.mark.slow),
    ],
)
def test_exported(backend, training):
    model = build(backend).train(training)
    open_size = torch.export.Dim.DYNAMIC
    shapes = {"x": {0: torch.export.Dim.AUTO, 2: open_size, 3: open_size}}
    program = torch.export.export(
        model, (traced_images(),), strict=False, dynamic_shapes=shapes
    )
    with torch.no_grad():
        require_equal(program.module(), model)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_traced_with_convolutions_in_mlps():
    model = build(mix_ffn=True).eval()
    require_equal(torch.jit.trace(model, traced_images()), model)


@torch.no_grad()
def test_deployed_graphs_fold_nothing():
    model = build().eval()
    for is_deployed in (False, True):
        if is_deployed:
            model.switch_to_deploy()
        program = torch.export.export(model, (traced_images(),), strict=False)
        graphs = [m for m in program.graph_module.modules() if hasattr(m, "graph")]
        is_folding = "linalg_eigh" in "".join(str(m.graph) for m in graphs)
        assert is_folding != is_deployed


def test_compiled_for_inference():
    """One graph, without a branch on data."""
    torch.compiler.reset()
    model = build().eval()
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend="eager")
    with torch.no_grad():
        require_equal(compiled, model)


def test_compiled_for_training():
    torch.compiler.reset()
    model = build()
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend="aot_eager")
    parameters = list(model.parameters())
    for size in SIZES[1:]:
        batch = batch_of(pictures(), size)
        gradients = [
            torch.autograd.grad(
                sum(out.square().mean() for out in f(batch)), parameters
            )
            for f in (compiled, model)
        ]
        for actual, expected in zip(*gradients):
            assert (actual - expected).norm() <= 1e-4 * expected.norm() + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "training",
    [
        pytest.param(True, marks=pytest.mark.xfail(strict=True, reason=_ONE_SIZE)),
        False,
    ],
)
def test_compiled_by_inductor(training):
    torch.compiler.reset()
    model = build().train(training)
    compiled = torch.compile(model, dynamic=True, fullgraph=True)
    with torch.set_grad_enabled(training):
        require_equal(compiled, model)


def test_gradients_a_sample_and_ensembles():
    """`vmap` of `grad` over pictures, and `vmap` over models."""
    models = [build(padding="ignore").double() for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(models)
    images = torch.randn(3, 3, 32, 40, dtype=torch.float64)

    def loss(parameters: dict, images: Tensor) -> Tensor:
        outs = torch.func.functional_call(models[0], (parameters, buffers), (images,))
        return sum(out.square().sum() for out in outs)

    def loss_of_image(parameters: dict, image: Tensor) -> Tensor:
        return loss(parameters, image[None])

    losses = torch.func.vmap(loss, (0, None))(parameters, images)
    expected = [loss(dict(m.named_parameters()), images) for m in models]
    torch.testing.assert_close(losses, torch.stack(expected))

    own = {name: p.detach() for name, p in models[0].named_parameters()}
    of_samples = torch.func.vmap(torch.func.grad(loss_of_image), (None, 0))(own, images)
    whole = torch.func.grad(loss)(own, images)
    for name, gradient in whole.items():
        torch.testing.assert_close(of_samples[name].sum(0), gradient)
