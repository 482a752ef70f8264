"""Checkpoints that would execute code, if anything were executed."""

import builtins
import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


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


class Persistent:
    """Pickled as an identifier, which for torch are those of the tensors' memory."""

    def __init__(self, identifier):
        self.identifier = identifier


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identifier if isinstance(value, Persistent) else None


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
    "a persistent id": lambda command: Persistent(
        ("storage", Call(os.system, command), "0", "cpu", 1)
    ),
    "nested containers": lambda command: OrderedDict(
        a=[({"b": (1, [Call(os.system, command)])},)]
    ),
    "code": lambda command: Call(builtins.exec, f"import os; os.system({command!r})"),
    "objects at addresses of its own": lambda _: Call(np.ndarray, (1,), "O", b"A" * 8),
    "a type of objects": lambda _: Call(np.dtype, "O"),
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


FORMS = ("zip", "pickle", "tar")  # in which torch writes, or has written


def write(path, checkpoint, form="zip"):
    """Write what `torch.save` would, in its present or a former format."""
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(checkpoint)
    content = stream.getvalue()
    if form == "pickle":
        path.write_bytes(content)
    elif form == "tar":
        with tarfile.open(path, "w") as target:
            member = tarfile.TarInfo("storages")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    else:
        buffer = io.BytesIO()
        torch.save({}, buffer)
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                is_pickle = name.endswith("/data.pkl")
                target.writestr(name, content if is_pickle else source.read(name))
