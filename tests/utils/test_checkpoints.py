"""Checkpoints are read whole or refused in a sentence, and fit or do not."""

import math
import os
import re

import pytest
import torch

from setformer_mm.utils import checkpoints
from setformer_mm.utils.checkpoints import (
    load_fitting_weights,
    read_checkpoint,
)
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


# Forms and places


def linear_weights() -> dict[str, torch.Tensor]:
    return dict(torch.nn.Linear(3, 2).state_dict())


def named(prefix: str, weights: dict) -> dict:
    return {prefix + name: value for name, value in weights.items()}


FORMS = {
    "mmengine": lambda weights: dict(state_dict=weights, meta=dict(epoch=1)),
    "weights alone": lambda weights: weights,
    "model": lambda weights: dict(model=weights, epoch=1),
    "model_state_dict": lambda weights: dict(model_state_dict=weights),
    "of a distributed model": lambda weights: named("module.", weights),
    "of a compiled model": lambda weights: named("_orig_mod.", weights),
    "of both": lambda weights: dict(model=named("module._orig_mod.", weights)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form, tmp_path):
    weights = linear_weights()
    path = str(tmp_path / "file.pth")
    torch.save(FORMS[form](weights), path)
    checkpoint = read_checkpoint(path)
    assert checkpoint["state_dict"].keys() == weights.keys()
    load_fitting_weights(model := torch.nn.Linear(3, 2), path)
    assert torch.equal(model.weight, weights["weight"])
    assert (form == "mmengine") == ("meta" in checkpoint)


def test_names_of_compiled_parts_and_of_modules_called_module(tmp_path):
    weights = {"backbone._orig_mod.weight": torch.ones(1), "module.bias": torch.ones(1)}
    torch.save(weights, tmp_path / "file.pth")
    read = read_checkpoint(str(tmp_path / "file.pth"))["state_dict"]
    assert read.keys() == {"backbone.weight", "module.bias"}


def test_versions_of_modules_follow_their_names(tmp_path):
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = torch.nn.Sequential(torch.nn.BatchNorm1d(2))

    torch.save(Wrapper().state_dict(), tmp_path / "file.pth")
    read = read_checkpoint(str(tmp_path / "file.pth"))["state_dict"]
    assert (
        read._metadata
        == torch.nn.Sequential(torch.nn.BatchNorm1d(2)).state_dict()._metadata
    )


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    weights = linear_weights()
    safetensors.save_file(named("module.", weights), path)
    read = read_checkpoint(str(path))["state_dict"]
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="is a damaged safetensors file: "):
        read_checkpoint(str(path))


def test_a_server(tmp_path, served, capsys):
    path, weights = tmp_path / "file.pth", linear_weights()
    with pytest.raises(UserError, match=f"{served}/file.pth cannot be read: .* 404"):
        read_checkpoint(f"{served}/file.pth")
    path.write_text("<!DOCTYPE html><html>")
    with pytest.raises(UserError, match="^http.* it is a web page$"):
        read_checkpoint(f"{served}/file.pth")
    torch.save(weights, path)  # what was refused has not been kept
    for source in ("", "", "using .*file.pth, downloaded before", ""):
        if source.startswith("using"):
            checkpoints._DOWNLOADS.clear()  # as in another process
        read = read_checkpoint(f"{served}/file.pth")["state_dict"]
        assert torch.equal(read["weight"], weights["weight"])
        said = capsys.readouterr().err
        assert re.search(source, said) if source.startswith("using") else not said
    kept = [file.name for file in (tmp_path / "torch").rglob("*") if file.is_file()]
    assert kept == ["file.pth"]
    with pytest.raises(UserError, match="cannot be read: .*refused"):
        read_checkpoint("http://127.0.0.1:9/other.pth")


def test_places_that_mmengine_cannot_reach():
    with pytest.raises(UserError, match="s3://a/b.pth cannot be read: .*petrel"):
        read_checkpoint("s3://a/b.pth")
    with pytest.raises(UserError, match="there is no model 'nothing'"):
        read_checkpoint("open-mmlab://nothing")


OTHER_FILES = {
    "a web page": b"\n<html><body>404",
    "Git LFS's pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
}


@pytest.mark.parametrize("what", OTHER_FILES)
def test_other_files_are_named(what, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(OTHER_FILES[what])
    with pytest.raises(UserError, match=f"not a checkpoint of weights, it is {what}"):
        read_checkpoint(str(path))


def test_folders_and_scripts_are_named(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_checkpoint(str(tmp_path))
    path = tmp_path / "file.pth"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 2), torch.ones(1, 3)), path)
    with pytest.raises(UserError, match="torch.jit.save; save its state_dict"):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dict(state_dict=None), "tensors by name in its state_dict, got a NoneType"),
        (dict(state_dict=[1]), "tensors by name in its state_dict, got a list"),
        ({1: torch.ones(1)}, "tensors by name, got 1: Tensor"),
        (dict(epoch=3), "tensors by name, got 'epoch': int"),
        (dict(model={"a.b": [1]}), "tensors by name, got model: 'a.b': list"),
    ],
)
def test_weights_are_tensors_by_name(content, message, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=message):
        read_checkpoint(str(tmp_path / "file.pth"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float8_e5m2])
@pytest.mark.parametrize("key", ["state_dict", "ema_state_dict"])
def test_weights_that_are_not_finite(value, dtype, key, tmp_path):
    weights = {f"layer{i}.weight": torch.ones(2, 3) for i in range(3)}
    weights["layer1.weight"][1, 2] = value
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    weights["count"] = torch.tensor(7)
    torch.save(dict(state_dict={}) | {key: weights}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="in 1 tensors, the first is layer1.weight"):
        read_checkpoint(str(tmp_path / "file.pth"))


# Fitting


def test_what_must_fit(tmp_path, capsys):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    path = str(tmp_path / "file.pth")
    weights = model.state_dict()
    del weights["1.num_batches_tracked"]
    torch.save(weights, path)
    load_fitting_weights(model, path)
    del weights["1.running_var"]
    torch.save(weights, path)
    with pytest.raises(UserError, match="missing, the first is 1.running_var;"):
        load_fitting_weights(model, path)
    load_fitting_weights(model, path, allow_missing=True)
    assert "1.running_var; they stay random" in capsys.readouterr().err
    weights["0.weight"] = torch.ones(5, 5)
    torch.save(weights, path)
    with pytest.raises(UserError, match="size mismatch for 0.weight"):
        load_fitting_weights(model, path, allow_missing=True)


def test_zip_file_with_a_damaged_end(tmp_path):
    """torch does not look at how many disks the archive spans; Python does."""
    path = tmp_path / "damaged.pth"
    torch.save(dict(weight=torch.ones(2)), path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x06\x07") + 16] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged.pth is"):
        read_checkpoint(path)
