"""Dumped predictions cannot execute code, and mmengine's own are read."""

import io
import os
import pickle
from contextlib import suppress

import numpy as np
import pytest
import torch
from malicious import PAYLOADS, Call, write
from mmengine.evaluator import DumpResults

from setformer_mm.utils.errors import UserError
from toolkit.predictions import read_predictions


def in_a_storage(payload) -> Call:
    """Torch's way to pickle a tensor's memory is a file in the file."""
    content = io.BytesIO()
    torch.save(payload, content)
    return Call(torch.storage._load_from_bytes, content.getvalue())


@pytest.mark.parametrize("wrap", [lambda p: p, in_a_storage], ids=["plain", "storage"])
@pytest.mark.parametrize("payload", sorted(set(PAYLOADS) - {"a persistent id"}))
def test_nothing_is_executed(tmp_path, canary, payload, wrap):
    path = tmp_path / "predictions.pkl"
    path.write_bytes(pickle.dumps([wrap(PAYLOADS[payload](f"touch {canary}"))]))
    with pytest.raises(UserError, match="is not a file that tools/test.py --out has"):
        read_predictions(path)
    assert not canary.exists()


@pytest.mark.parametrize("wrap", [lambda p: p, in_a_storage], ids=["plain", "storage"])
def test_the_payload_works_where_anything_may_run(tmp_path, canary, wrap):
    """Otherwise the test above would prove nothing."""
    content = pickle.dumps(wrap(Call(os.system, f"touch {canary}")))
    with suppress(TypeError):
        pickle.loads(content)
    assert canary.exists()


def test_a_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.pth"
    write(path, dict(state_dict={}))
    with pytest.raises(UserError, match="is not a file that"):
        read_predictions(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_predictions(tmp_path / "none.pkl")


def test_what_mmengine_dumps(tmp_path):
    path = tmp_path / "predictions.pkl"
    sample = dict(
        img_path="a.png",
        pred_score=torch.rand(3),
        pred_instances=dict(masks=[dict(size=[2, 2], counts=b"\xff04")]),
        array=np.arange(3.0),
        number=np.float32(2),
    )
    dump = DumpResults(str(path))
    dump.process({}, [sample])
    dump.evaluate(1)
    (read,) = read_predictions(path)
    assert torch.equal(read["pred_score"], sample["pred_score"])
    assert read["pred_instances"] == sample["pred_instances"]
    assert read["array"].tolist() == [0, 1, 2] and read["number"] == 2
