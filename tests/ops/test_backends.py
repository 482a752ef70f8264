"""Which backend runs, and what is said about the others."""

import pytest
import torch

from setformer_mm.ops import available_backends, set_attention
from setformer_mm.ops.backends import select_backend
from setformer_mm.ops.reference import set_attention_reference

from .problems import random_tensors


def test_reference_is_always_available():
    assert available_backends()["reference"] is None
    assert select_backend("reference") is set_attention_reference


def test_auto_takes_the_first_available_backend():
    first = next(name for name, why in available_backends().items() if why is None)
    assert select_backend("auto") is select_backend(first)
    inputs = random_tensors()
    actual, expected = (set_attention(*inputs, backend=b) for b in ("auto", first))
    assert torch.equal(actual, expected)


def test_every_unavailable_backend_says_why():
    for name, why in available_backends().items():
        if why is not None:
            with pytest.raises(ValueError, match=why):
                select_backend(name)


def test_unknown_backend_is_an_error_that_lists_all():
    with pytest.raises(ValueError, match="got 'tpu'") as info:
        set_attention(*random_tensors(), backend="tpu")
    for name, why in available_backends().items():
        assert repr(name) in str(info.value)
        assert why is None or why in str(info.value)
