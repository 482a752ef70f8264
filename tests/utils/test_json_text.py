"""Only what JSON knows."""

import json
import math

import numpy as np
import pytest
import torch

from setformer_mm.utils.json_text import json_text, plain


def strict(text: str):
    """Read as the many readers do that know no NaN."""

    def refuse(name: str):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [float, np.float32, np.float64, torch.tensor])
def test_what_is_no_number_becomes_null(value, kind):
    content = {"a": kind(value), "b": [1.5, (kind(value),)]}
    assert strict(json_text(content)) == {"a": None, "b": [1.5, [None]]}


def test_arrays_lists_and_keys():
    content = {
        1: np.array([1.0, math.nan]),
        "b": torch.arange(3),
        "c": np.int64(3),
        "d": [True, None, np.bool_(True)],
        "e": test_arrays_lists_and_keys,
    }
    read = strict(json_text(content))
    assert read.pop("e").startswith("<function")
    assert read == {"1": [1.0, None], "b": [0, 1, 2], "c": 3, "d": [True, None, True]}
    assert type(plain(np.float64(2))) is float


def test_layout():
    assert json_text({"a": 1}, indent=2) == '{\n  "a": 1\n}\n'
