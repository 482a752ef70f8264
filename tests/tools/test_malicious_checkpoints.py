"""Whatever a tool reads a checkpoint for: code in it is refused and never runs."""

from pickle import UnpicklingError

import pytest
import torch
from checkpoint_readers import READERS, evaluate, resume, train
from in_process import ROOT
from malicious import PAYLOADS, PLACES, write
from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from setformer_mm.utils.checkpoints import load_checkpoints_safely, read_checkpoint
from setformer_mm.utils.errors import UserError

# A call, a chain of attributes, and a state, each in another part of a checkpoint.
CASES = {
    "a call": "weights",
    "through a method's builtins": "message hub",
    "a state": "optimizer",
    "a persistent id": "weights",
    "nested containers": "optimizer",
}


@pytest.mark.parametrize("payload", CASES)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_of_a_file(reader, payload, tool, toy, tmp_path, canary):
    path = tmp_path / "file.pth"
    write(path, PLACES[CASES[payload]](PAYLOADS[payload](f"touch {canary}")))
    with pytest.raises(UserError, match="file.pth is not a checkpoint of weights,"):
        reader(tool, toy, tmp_path, str(path))
    assert not canary.exists()
    assert not list(tmp_path.glob("out*")), "something was written"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_of_a_server(reader, served, tool, toy, tmp_path, canary):
    write(
        tmp_path / "file.pth", PLACES["optimizer"](PAYLOADS["code"](f"touch {canary}"))
    )
    with pytest.raises(UserError, match="^http.*is not a checkpoint of weights,"):
        reader(tool, toy, tmp_path, f"{served}/file.pth")
    assert not canary.exists()
    assert not list((tmp_path / "torch").rglob("file*")), "it was kept"


class Bucket(LocalBackend):
    """An object store, with ``s3://bucket`` for the root of the file system."""

    def get(self, filepath):
        return super().get(filepath.partition("bucket")[2])


@pytest.fixture
def stores(monkeypatch):
    """Stand in for mmengine's backend that needs a client of its own."""
    for registry in (backends, prefix_to_backends):
        for name, value in list(registry.items()):
            monkeypatch.setitem(registry, name, value)
    register_backend("petrel", Bucket, prefixes=["petrel", "s3"], force=True)


PLACES_OF_FILES = {
    "a file": "{path}",
    "a backend": "s3://bucket{path}",
    "a backend of a cluster": "cluster:petrel://bucket{path}",
    "a server": "{served}/file.pth",
    "torchvision": "torchvision://name",
    "open-mmlab": "open-mmlab://name",
    "open-mmlab, in its own folder": "openmmlab://local",
    "mmcls": "mmcls://name",
}


@pytest.fixture
def anywhere(request, tmp_path, served, stores, monkeypatch):
    """Name ``file.pth`` by one of :data:`PLACES_OF_FILES`."""
    urls = dict(name=f"{served}/file.pth", local="../file.pth")
    for lookup in ("torchvision", "external", "mmcls"):
        monkeypatch.setattr(mmengine_checkpoint, f"get_{lookup}_models", lambda: urls)
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path / "home"))
    path = str(tmp_path / "file.pth")
    return PLACES_OF_FILES[request.param].format(path=path, served=served)


@pytest.mark.parametrize("anywhere", PLACES_OF_FILES, indirect=True)
def test_of_any_place(anywhere, tool, toy, tmp_path, canary):
    """Checked before, and by mmengine's own later load as well."""
    payload = PAYLOADS["code"](f"touch {canary}")
    write(tmp_path / "file.pth", PLACES["weights"](payload))
    with pytest.raises(UserError, match="is not a checkpoint of weights") as refusal:
        evaluate(tool, toy, tmp_path, anywhere)
    assert anywhere in str(refusal.value)
    with pytest.raises(UserError, match="is not a checkpoint of weights"):
        CheckpointLoader.load_checkpoint(anywhere)
    assert not canary.exists()


@pytest.mark.parametrize("anywhere", PLACES_OF_FILES, indirect=True)
def test_a_training_of_mmengine_loads_from_any_place(anywhere, tool, toy, tmp_path):
    """With message hub, optimizer and EMA."""
    config = tmp_path / "ema.py"
    base = f"_base_ = {str(toy / 'toy_epochs.py')!r}\n"
    config.write_text(base + "custom_hooks = [dict(type='EMAHook')]\n")
    tool("train", config, "--work-dir", tmp_path / "run")
    (tmp_path / "run" / "epoch_4.pth").rename(tmp_path / "file.pth")
    load_checkpoints_safely()
    checkpoint = CheckpointLoader.load_checkpoint(anywhere)
    if not anywhere.startswith("mmcls"):  # takes the backbone alone
        assert checkpoint.keys() >= {"message_hub", "optimizer", "ema_state_dict"}
        evaluate(tool, toy, tmp_path, anywhere)
        resume(tool, toy, tmp_path, anywhere)


def test_a_variable_that_asks_for_unsafe_loading(
    tool, toy, tmp_path, canary, monkeypatch
):
    """Much advice names it; torch refuses every load where both of its kind are set."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    tool("train", toy / "toy_epochs.py", "--work-dir", tmp_path / "run")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    evaluate(tool, toy, tmp_path, str(tmp_path / "run" / "epoch_4.pth"))
    path = tmp_path / "file.pth"
    torch.save(dict(weight=torch.ones(1)), path)
    assert torch.load(path)  # whoever else loads something
    write(path, PLACES["weights"](PAYLOADS["code"](f"touch {canary}")))
    with pytest.raises(UnpicklingError):
        torch.load(path)
    assert not canary.exists()


def test_every_tool_that_reads_checkpoints_is_among_them():
    reading = {
        path.stem
        for path in (ROOT / "tools").glob("*.py")
        if "load_checkpoints_safely()" in path.read_text(encoding="utf-8")
    }
    tested = {"convert_checkpoint", "explore", "export", "measure_padding", "predict"}
    tested |= {"publish_checkpoint", "test", "train", "visualize_transport"}
    assert reading == tested


def test_a_config_in_a_checkpoint_is_not_executed(tool, toy, tmp_path, canary):
    """mmengine resumes by running ``meta.config`` as a config file."""
    train(tool, toy, tmp_path, None)
    path = tmp_path / "run" / "epoch_4.pth"
    checkpoint = read_checkpoint(str(path))
    checkpoint["meta"]["config"] = f"a = open({str(canary)!r}, 'w')"
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="never executed") as error:
        train(tool, toy, tmp_path, path, "--resume")
    assert "\n" not in str(error.value)
    assert not canary.exists()
