"""Checkpoints are read whole or refused in a sentence, and fit or do not."""

import os

import pytest
import torch

from setformer_mm.utils.checkpoints import read_checkpoint, require_training_state
from setformer_mm.utils.errors import UserError


class Foreign:
    """Code that a weights-only load must refuse."""


class Blocked:
    """Code of a module that torch names in another sentence."""

    def __reduce__(self):
        return os.system, ("true",)


def test_read_checkpoint_refuses_what_is_none(tmp_path):
    path = tmp_path / "file.pth"
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(str(path))
    for content in (b"", b"text", b"PK\x03\x04 half a file"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a checkpoint of weights"):
            read_checkpoint(str(path))
    torch.save(dict(meta=Foreign()), path)
    with pytest.raises(UserError, match="it holds a .*Foreign"):
        read_checkpoint(str(path))
    torch.save(dict(meta=Blocked()), path)
    with pytest.raises(UserError, match="it holds a .*system"):
        read_checkpoint(str(path))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="expected a dict"):
        read_checkpoint(str(path))


def test_weights_alone_cannot_be_resumed(tmp_path):
    path = tmp_path / "file.pth"
    torch.save(dict(state_dict={}, message_hub={}), path)
    require_training_state(str(path))
    torch.save(dict(state_dict={}, meta=dict(epoch=3)), path)
    with pytest.raises(UserError, match="no state of a training .* load_from=.*file"):
        require_training_state(str(path))


def test_truncated_checkpoint(tmp_path):
    path = tmp_path / "file.pth"
    torch.save(dict(state_dict=dict(weight=torch.zeros(1000))), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(str(path))


def test_one_bit_of_a_checkpoint_is_another(tmp_path):
    path = tmp_path / "file.pth"
    weight = torch.randn(1000)
    torch.save(dict(state_dict=dict(weight=weight)), path)
    read_checkpoint(str(path))
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="the checksum of .* is wrong"):
        read_checkpoint(str(path))
