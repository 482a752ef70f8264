"""Which backend runs, and what is said about the others."""

import re

import pytest
import torch

from setformer_mm.ops import available_backends, backends, extension, set_attention
from setformer_mm.ops.backends import Problem, select_backend
from setformer_mm.ops.reference import set_attention_reference
from setformer_mm.ops.registration import set_attention_compiled

from .compiled import needs_extension
from .problems import random_tensors

IMAGE = ((4, 5), (2, 3), 20, 6)


def problem(dtype=torch.float32, device="cpu", epsilon=0.1, tau=0.15, geometry=IMAGE):
    x = torch.empty(1, geometry[2], 2, 8, dtype=dtype, device=device)
    return Problem(x, epsilon, tau, geometry)


def test_reference_is_always_available():
    assert available_backends()["reference"] is None
    for device in ("cpu", "meta"):
        chosen = select_backend("reference", problem(device=device))
        assert chosen is set_attention_reference


def test_auto_takes_the_first_available_backend():
    first = next(name for name, why in available_backends().items() if why is None)
    assert select_backend("auto") is select_backend(first)
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
        pytest.param(dict(epsilon=0.01), id="smallest epsilon"),
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
        (dict(epsilon=0.009), "at least 0.01, got 0.009"),
        (dict(tau=0.01), "tau = 0.01 is too small"),
        (dict(geometry=((1, 1), (4, 4), 1, 16), tau=0.05), "tau = 0.05 is too small"),
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
    monkeypatch.setattr(backends, "_MIN_EPSILON", 0.2)
    assert select_backend("auto", problem()) is set_attention_reference
