"""toolkit.host_messages: exactly what looks like a failure and is none is left out."""

import logging
import warnings

import pytest
from mmengine import logging as mmengine_logging
from mmengine.logging import logger as mmengine_logger

from toolkit.host_messages import WARNINGS, HostMessages, quieten_host_libraries

MISFIT = (
    "The model and loaded state dict do not match exactly\n\n"
    "missing keys in source state_dict: {}\n"
)


def logged(message: str) -> logging.LogRecord | None:
    """What the filter makes of a warning."""
    record = logging.LogRecord("x", logging.WARNING, "", 0, message, None, None)
    return record if HostMessages().filter(record) else None


@pytest.fixture
def quiet(monkeypatch):
    for module in (mmengine_logging, mmengine_logger):
        monkeypatch.setattr(module, "print_log", module.print_log)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        quieten_host_libraries()
        yield


def test_what_is_printed_for_developers(quiet, capsys):
    from mmengine.logging import print_log

    print_log("Could not import OneDL", level=logging.DEBUG)
    print_log("something happened")
    assert capsys.readouterr().out == "something happened\n"


def test_registries_that_are_missed(quiet, capsys):
    from mmengine.logging import print_log

    said = 'Failed to search registry with scope "mmdet" in the "{}" registry tree.'
    for kind in ("function", "model"):
        print_log(said.format(kind))
    assert capsys.readouterr().out == said.format("model") + "\n"


def test_warnings(quiet):
    said = [f"{beginning} and so on" for beginning in WARNINGS] + ["labels are wrong"]
    with warnings.catch_warnings(record=True) as caught:
        for text in said:
            warnings.warn(text, stacklevel=1)
    assert [str(w.message) for w in caught] == ["labels are wrong"]


def test_lines_of_the_log():
    assert logged("paramwise_options -- backbone.norm.bias:weight_decay=0.0") is None
    assert logged('"FileClient" will be deprecated in future.') is None
    assert logged("The learning rate is NaN").levelno == logging.WARNING


def test_new_norms_are_explained_and_other_misfits_are_not():
    explained = logged(MISFIT.format("norm0.weight, norm0.bias, norm1.weight"))
    assert explained.levelno == logging.INFO and "start anew" in explained.msg
    for keys in ("norm0.weight, stages.0.blocks.0.mlp.0.bias", "bbox_head.fc.bias"):
        record = logged(MISFIT.format(keys))
        assert record.levelno == logging.WARNING and keys in record.msg
    unexpected = "The model and loaded state dict do not match exactly\n\nunexpected"
    assert logged(unexpected).msg == unexpected
