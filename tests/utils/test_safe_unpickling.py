"""A checkpoint cannot execute code, and mmengine's own checkpoints load."""

import builtins
import io
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import checkpoint as mmengine_checkpoint

from setformer_mm.utils.checkpoints import read_checkpoint
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.safe_unpickling import safe_globals


class Call:
    """Pickled as the call of a function, which unpickling makes."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call

    def __call__(self):
        """Pickle wants what it calls to be callable; it is what the call returns."""


class Built(Call):
    """The same, and then a state, which unpickling gives to what the call returned."""

    def __init__(self, function, *args, state):
        self.call = function, args, state


def attribute(owner, *names):
    """``owner.a.b.c``, to be looked up by unpickling."""
    for name in names:
        owner = Call(getattr, owner, name)
    return owner


def item(owner, key):
    return Call(attribute(owner, "__getitem__"), key)


def globals_of_a_method():
    return attribute(HistoryBuffer, "mean", "__globals__")


PAYLOADS = {
    "a call": lambda command: Call(os.system, command),
    "through a method's globals": lambda command: Call(
        attribute(item(globals_of_a_method(), "np"), "os", "system"), command
    ),
    "through a method's builtins": lambda command: Call(
        item(item(globals_of_a_method(), "__builtins__"), "eval"),
        f"__import__('os').system({command!r})",
    ),
    "through a subclass": lambda command: Call(
        attribute(HistoryBuffer, "__class__", "__subclasses__"), type
    ),
    "an attribute that is no statistic": lambda _: attribute(HistoryBuffer, "update"),
    "of another owner": lambda _: attribute(slice, "indices"),
    "a name that is no string": lambda _: Call(getattr, HistoryBuffer, 1),
    "a state": lambda command: Built(
        HistoryBuffer, state=dict(_log_history=Call(os.system, command))
    ),
    "code": lambda command: Call(builtins.exec, f"import os; os.system({command!r})"),
}
PLACES = {
    "alone": lambda payload: payload,
    "weights": lambda payload: dict(state_dict=dict(weight=payload)),
    "optimizer": lambda payload: dict(
        state_dict={}, optimizer=dict(state=[(1, [payload])])
    ),
    "message hub": lambda payload: dict(
        state_dict={}, message_hub=dict(log_scalars=dict(loss=payload))
    ),
}


def write(path, checkpoint, is_zip):
    """Write what `torch.save` would, in its present or its former format."""
    if not is_zip:
        path.write_bytes(pickle.dumps(checkpoint, protocol=2))
        return
    buffer = io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/data.pkl"):
                content = pickle.dumps(checkpoint, protocol=2)
            target.writestr(name, content)


@pytest.fixture
def canary(tmp_path):
    """A file that no payload may make."""
    return tmp_path / "canary"


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "pickle"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_is_executed(tmp_path, canary, payload, place, is_zip):
    path = tmp_path / "checkpoint.pth"
    write(path, PLACES[place](PAYLOADS[payload](f"touch {canary}")), is_zip)
    with pytest.raises(UserError, match="is not a checkpoint of weights"):
        read_checkpoint(str(path))
    assert not canary.exists()


def test_payloads_work_where_anything_may_run(tmp_path, canary):
    """Otherwise the test above would prove nothing."""
    path = tmp_path / "checkpoint.pth"
    for payload in ("a call", "through a method's builtins", "a state", "code"):
        write(path, PLACES["optimizer"](PAYLOADS[payload](f"touch {canary}")), True)
        torch.load(path, weights_only=False)
        assert canary.exists(), payload
        canary.unlink()


def test_mmengine_loads_no_more_than_we_do(tmp_path, canary):
    """Its own later load, in a process of a tool, is held to the same list."""
    path = tmp_path / "checkpoint.pth"
    payload = PAYLOADS["through a method's builtins"](f"touch {canary}")
    write(path, PLACES["message hub"](payload), True)
    script = (
        "import sys; from mmengine.runner import CheckpointLoader\n"
        "from setformer_mm.utils.safe_unpickling import load_checkpoints_safely\n"
        "load_checkpoints_safely()\n"
        "try: CheckpointLoader.load_checkpoint(sys.argv[1])\n"
        "except Exception as error: print('refused by', type(error).__name__)\n"
    )
    command = [sys.executable, "-c", script, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "refused by UnpicklingError\n" in done.stdout  # and logs
    assert not canary.exists()


def test_a_training_of_mmengine_is_read(tmp_path):
    hub = MessageHub("for this test")
    for loss in 1.0, 2.0:
        hub.update_scalar("train/loss", loss)
    checkpoint = dict(state_dict=dict(w=torch.ones(2)), message_hub=hub.state_dict())
    path = tmp_path / "checkpoint.pth"
    torch.save(checkpoint, path)
    history = read_checkpoint(str(path))["message_hub"]["log_scalars"]["train/loss"]
    assert history.mean() == 1.5 and history.statistics("max") == 2.0


def test_nothing_of_mmengines_list_is_lost():
    wanted = set(mmengine_checkpoint.get_torch_safe_globals()) - {getattr}
    assert wanted <= set(safe_globals())
    assert getattr not in safe_globals()
