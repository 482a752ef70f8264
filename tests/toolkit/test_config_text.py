"""What of a config in a checkpoint may be handed on."""

import pytest
from mmengine.config import Config

from setformer_mm import configs
from toolkit.config_text import holds_values_alone


@pytest.mark.parametrize(
    "name", ["setformer_t_in1k", "mask_rcnn_setformer_digits", "upernet_setformer_b"]
)
def test_configs_as_mmengine_writes_them(name):
    assert holds_values_alone(Config.fromfile(configs.path(name)).pretty_text)


@pytest.mark.parametrize(
    "text",
    [
        "a = print(1)",
        "a = dict(b=print(1))",
        "a = dict(**print(1))",
        "a = {**print(1)}",
        "a = {print(1): 2}",
        "a = [print(1)]",
        "a = -print(1)",
        "a = b = f'{print(1)}'",
        "a = [x for x in y]",
        "a = b",
        "a = (lambda: 1)()",
        "a = (1).__class__",
        "a = __import__('os').system('true')",
        "dict = print\na = dict(1)",
        "a.b = 1",
        "a[0] = 1",
        "print(1)",
        "import os",
        "from os import path",
        "def f(): pass",
        "class A: pass",
        "a: int = 1",
        "_base_ = 'other.py'",
        "a = 1 +",
        "a = " + "[" * 10_000,
        "",
        b"a = 1",
        None,
        {"a": 1},
    ],
)
def test_what_could_run_is_none(text):
    assert not holds_values_alone(text)


def test_values():
    text = "a = dict(b=[1, -2.5, None, True], c=('x', {1: 'y'}), d=dict({'e.f': 3}))"
    assert holds_values_alone(text)
