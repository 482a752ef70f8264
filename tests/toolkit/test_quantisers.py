"""Counting what is quantised, and saying what is missing."""

import sys

import pytest
from torch import nn

from setformer_mm.utils.errors import UserError
from toolkit.quantisers import count_layers, torch_ao_dynamic, torchao_dynamic


def test_layers_that_a_quantiser_leaves_out_are_counted():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Own(4, 4), nn.GELU())
    assert count_layers(model) == (0, 2)
    assert count_layers(torch_ao_dynamic(model)) == (1, 2)


def test_torchao_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(UserError, match="pip install torchao"):
        torchao_dynamic(nn.Linear(4, 4))
