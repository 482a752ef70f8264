"""Which backend runs, and what is said about the others."""

import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

from setformer_mm.ops import available_backends, backends, extension, set_attention
from setformer_mm.ops.backends import Problem, select_backend
from setformer_mm.ops.reference import set_attention_reference
from setformer_mm.ops.registration import set_attention_compiled

from .compiled import needs_extension
from .problems import random_tensors

IMAGE = ((4, 5), (2, 3), 20, 6)


def problem(
    dtype=torch.float32,
    device="cpu",
    dim=8,
    epsilon=0.01,
    num_iters=3,
    tau=0.5,
    geometry=IMAGE,
    num_anchors=8,
):
    with FakeTensorMode():  # on a GPU that need not be there
        x = torch.empty(1, geometry[2], 2, dim, dtype=dtype, device=device)
    return Problem(x, epsilon, num_iters, tau, geometry, num_anchors)


def test_reference_is_always_available():
    assert available_backends()["reference"] is None
    for device in ("cpu", "meta"):
        chosen = select_backend("reference", problem(device=device))
        assert chosen is set_attention_reference


def test_auto_takes_the_first_backend_that_can_run():
    names = [name for name, why in available_backends().items() if why is None]
    assert select_backend("auto") is select_backend(names[0])
    first = next(name for name in names if name != "cuda")  # for tensors on the CPU
    inputs = random_tensors()
    actual, expected = (set_attention(*inputs, backend=b) for b in ("auto", first))
    assert torch.equal(actual, expected)


def test_every_unavailable_backend_says_why():
    for name, why in available_backends().items():
        if why is not None:
            for given in (None, problem()):
                with pytest.raises(ValueError, match=re.escape(f"{name!r} cannot be")):
                    select_backend(name, given)
            with pytest.raises(ValueError, match=re.escape(why)):
                set_attention(*random_tensors(), backend=name)


def test_unknown_backend_is_an_error_that_lists_all():
    with pytest.raises(ValueError, match="got 'tpu'") as info:
        set_attention(*random_tensors(), backend="tpu")
    for name in ("auto", *available_backends()):
        assert repr(name) in str(info.value)


@needs_extension
@pytest.mark.parametrize(
    "given",
    [
        pytest.param(dict(dtype=torch.bfloat16), id="bfloat16"),
        pytest.param(dict(dtype=torch.float16), id="float16"),
        pytest.param(dict(dtype=torch.float64), id="float64"),
        pytest.param(dict(epsilon=1e-6, num_iters=1000), id="smallest epsilon"),
        pytest.param(dict(tau=None), id="no positions"),
        pytest.param(dict(geometry=(None, None, 20, 6)), id="sequence"),
    ],
)
def test_cpu_kernels_are_chosen_in_their_regime(given):
    for name in ("auto", "cpu"):
        assert select_backend(name, problem(**given)) is set_attention_compiled


@needs_extension
@pytest.mark.parametrize(
    "given, reason",
    [
        (dict(device="meta"), "tensors on the CPU, got meta"),
        (dict(dtype=torch.float8_e5m2), "got torch.float8_e5m2"),
        (dict(tau=0.01), "tau = 0.01 is too small"),
        (dict(geometry=(None, None, 20, 6), tau=0.1), "tau = 0.1 is too small"),
    ],
)
def test_cpu_kernels_leave_the_rest_to_the_reference(given, reason):
    assert select_backend("auto", problem(**given)) is set_attention_reference
    with pytest.raises(ValueError, match=f"'cpu' cannot be used: .*{reason}"):
        select_backend("cpu", problem(**given))


def test_choice_follows_the_predicate(monkeypatch):
    monkeypatch.setattr(extension, "WHY_MISSING", "it is on holiday")
    assert available_backends()["cpu"] == "it is on holiday"
    assert select_backend("auto", problem()) is set_attention_reference
    monkeypatch.setattr(extension, "WHY_MISSING", None)
    assert select_backend("auto", problem()) is set_attention_compiled
    monkeypatch.setattr(backends, "_MIN_EXPONENT", -0.1)
    assert select_backend("auto", problem()) is set_attention_reference


@needs_extension
def test_some_graphs_and_transforms_take_the_reference(monkeypatch):
    chosen = []

    def choose(x):
        chosen.append(select_backend("auto", problem()))
        return x

    torch.func.vmap(choose)(torch.zeros(2))
    choose(torch.zeros(2))
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    choose(torch.zeros(2))
    assert chosen == [
        set_attention_reference,
        set_attention_compiled,
        set_attention_reference,
    ]
    with pytest.raises(
        ValueError, match="'cpu' cannot be used: ONNX knows torch's own"
    ):
        select_backend("cpu", problem())


@pytest.fixture
def cuda_kernels(monkeypatch):
    """As if they were loaded, beside the oldest GPU that can run them."""
    monkeypatch.setattr(extension, "WHY_CUDA_MISSING", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(dict(dtype=torch.float32), id="float32"),
        pytest.param(dict(dtype=torch.bfloat16), id="bfloat16"),
        pytest.param(dict(dtype=torch.float16), id="float16"),
        pytest.param(dict(epsilon=1e-6), id="smallest epsilon"),
        pytest.param(dict(epsilon=0.05, num_iters=100), id="many iterations"),
        pytest.param(dict(tau=0.12), id="narrow weights"),
        pytest.param(dict(tau=None), id="no positions"),
        pytest.param(dict(geometry=(None, None, 20, 6)), id="sequence"),
        pytest.param(
            dict(dim=64, num_anchors=64, geometry=((4, 5), (8, 16), 20, 128)),
            id="largest sizes",
        ),
    ],
)
def test_cuda_kernels_are_chosen_in_their_regime(given, cuda_kernels):
    for name in ("auto", "cuda"):
        chosen = select_backend(name, problem(device="cuda", **given))
        assert chosen is set_attention_compiled


@pytest.mark.parametrize(
    "given, reason",
    [
        (dict(dtype=torch.float64), "got torch.float64"),
        (dict(dim=65), "at most 64 .* and 128 references .* got 65, 8 and 6"),
        (dict(num_anchors=65), "got 8, 65 and 6"),
        (dict(geometry=((4, 5), (3, 43), 20, 129)), "got 8, 8 and 129"),
        (dict(epsilon=0.04, num_iters=14), "num_iters = 14 are too many"),
        (dict(tau=0.09), "tau = 0.09 is too small"),
    ],
)
def test_cuda_kernels_leave_the_rest_to_the_reference(given, reason, cuda_kernels):
    given = problem(device="cuda", **given)
    assert select_backend("auto", given) is set_attention_reference
    with pytest.raises(ValueError, match=f"'cuda' cannot be used: .*{reason}"):
        select_backend("cuda", given)


def test_cuda_kernels_need_tensors_on_a_gpu(cuda_kernels):
    with pytest.raises(ValueError, match="it takes tensors on a GPU, got cpu"):
        select_backend("cuda", problem())


def test_cuda_kernels_need_a_gpu_with_their_instructions(cuda_kernels, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert select_backend("auto", problem(device="cuda")) is set_attention_reference
    with pytest.raises(ValueError, match="capability 8.0 or newer, got 7.5"):
        select_backend("cuda", problem(device="cuda"))


def test_choice_of_cuda_follows_the_library_and_the_gpu(cuda_kernels, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert available_backends()["cuda"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no GPU" in available_backends()["cuda"]
    monkeypatch.setattr(extension, "WHY_CUDA_MISSING", "it is on holiday")
    assert available_backends()["cuda"] == "it is on holiday"
    assert select_backend("auto", problem(device="cuda")) is set_attention_reference


def test_automatic_choice_asks_no_gpu_about_tensors_on_the_cpu(
    cuda_kernels, monkeypatch
):
    """A process that is to be forked must not touch CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", pytest.fail)
    set_attention(*random_tensors())


@needs_extension
def test_choice_of_cuda_is_compiled_away(cuda_kernels):
    torch.compiler.reset()
    given = problem(device="cuda")

    def choose(x):
        with_x = given._replace(x=x)
        return x + (select_backend("cuda", with_x) is set_attention_compiled)

    compiled = torch.compile(choose, fullgraph=True, backend="eager")
    with given.x.fake_mode:
        assert compiled(given.x).shape == given.x.shape


def test_the_compiler_takes_the_capability_as_a_constant():
    """Marked without torch.compiler, whose import takes a second; this is its mark."""
    marked = torch.compiler.assume_constant_result(lambda: None)
    assert vars(backends._compute_capability).items() >= vars(marked).items() != set()
