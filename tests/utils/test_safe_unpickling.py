"""A checkpoint cannot execute code, and mmengine's own checkpoints load."""

from contextlib import suppress
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from malicious import FORMS, PAYLOADS, PLACES, write
from mmengine.logging import MessageHub
from mmengine.runner import checkpoint as mmengine_checkpoint

from setformer_mm.utils.checkpoints import read_checkpoint
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.safe_unpickling import (
    ARRAY_MODULES,
    number_type,
    safe_globals,
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_is_executed(tmp_path, canary, payload, place, form):
    path = tmp_path / "checkpoint.pth"
    write(path, PLACES[place](PAYLOADS[payload](f"touch {canary}")), form)
    with pytest.raises(UserError, match="is not a checkpoint of weights"):
        read_checkpoint(str(path))
    assert not canary.exists()


@pytest.mark.parametrize(
    "payload",
    [
        "a call",
        "through a method's builtins",
        "a state",
        "a persistent id",
        "nested containers",
        "code",
    ],
)
def test_payloads_work_where_anything_may_run(tmp_path, canary, payload):
    """Otherwise the test above would prove nothing."""
    path = tmp_path / "checkpoint.pth"
    write(path, PLACES["optimizer"](PAYLOADS[payload](f"touch {canary}")))
    with suppress(AttributeError):  # the identifier is that of no storage
        torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_training_of_mmengine_is_read(tmp_path):
    hub = MessageHub("for this test")
    for loss in 1.0, 2.0:
        hub.update_scalar("train/loss", loss)
    checkpoint = dict(state_dict=dict(w=torch.ones(2)), message_hub=hub.state_dict())
    path = tmp_path / "checkpoint.pth"
    torch.save(checkpoint, path)
    history = read_checkpoint(str(path))["message_hub"]["log_scalars"]["train/loss"]
    assert history.mean() == 1.5 and history.statistics("max") == 2.0


def test_arrays_and_scalars_are_read(tmp_path):
    """As numpy's own types."""
    values = dict(
        a=np.arange(6.0).reshape(2, 3).T,
        b=np.array([1, 2], "i4"),
        c=np.array([True]),
        d=np.float64(2.5),
        e=np.int64(3),
    )
    path = tmp_path / "checkpoint.pth"
    torch.save(dict(state_dict={}, message_hub=values), path)
    found = read_checkpoint(str(path))["message_hub"]
    for name, value in values.items():
        assert type(found[name]) is type(value)
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


@pytest.mark.parametrize("theirs", ARRAY_MODULES)
def test_files_of_either_numpy_are_read(tmp_path, theirs):
    """The committed weights are of numpy 2, those of OpenMMLab's lists of numpy 1."""
    values = dict(a=np.arange(3.0), d=np.float64(2.5))
    path = tmp_path / "checkpoint.pth"
    torch.save(dict(state_dict={}, meta=values), path, _use_new_zipfile_serialization=0)
    (ours,) = [m for m in ARRAY_MODULES if m.encode() in path.read_bytes()]
    path.write_bytes(path.read_bytes().replace(ours.encode(), theirs.encode()))
    found = read_checkpoint(str(path))["meta"]
    np.testing.assert_array_equal(found["a"], values["a"])
    assert found["d"] == values["d"] and type(found["d"]) is np.float64


class TypeWithState:
    """Pickled as float64 of another state than its own."""

    def __init__(self, state: tuple):
        self.state = state

    def __reduce__(self):
        return np.dtype, ("f8", False, True), self.state


@pytest.mark.parametrize(
    "state",
    [
        (3, "<", (np.dtype("f8"), (1 << 30,)), None, None, 8, 8, 0),
        (3, "<", None, None, None, 1 << 30, 8, 63),
    ],
    ids=["of many numbers", "of objects"],
)
def test_a_state_of_a_type_has_no_effect(tmp_path, state):
    """Otherwise sums would be over what lies behind the file's bytes."""
    path = tmp_path / "checkpoint.pth"
    torch.save(dict(state_dict={}, meta=dict(kind=TypeWithState(state))), path)
    kind = read_checkpoint(str(path))["meta"]["kind"]
    assert (kind.itemsize, kind.subdtype, kind.flags) == (8, None, 0)


def test_types_with_a_byte_order_of_their_own_are_refused():
    with pytest.raises(UnpicklingError, match="not an allowed way to arrays of '>f8'"):
        number_type(">f8")


def test_nothing_of_mmengines_list_is_lost():
    list_of_mmengine = getattr(mmengine_checkpoint, "get_torch_safe_globals", None)
    if list_of_mmengine is None:
        pytest.skip("OpenMMLab's own mmengine has no list")

    def name(each):
        return each.__module__, each.__qualname__

    mmengines = list_of_mmengine()
    assert set(map(name, mmengines)) <= set(map(name, safe_globals()))
    assert not {getattr, np.dtype} & set(safe_globals())
    assert not any(each is np.ndarray for each in safe_globals())
