"""Checkpoints: read from wherever they are and in whatever form, and checked.

Nothing in a checkpoint is executed (:mod:`.safe_unpickling`). What is damaged, is
something else, or holds NaN is refused in one sentence before it reaches a model.
"""

import os
import os.path as osp
import re
import sys
import tarfile
import threading
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor, nn

from .errors import UserError
from .safe_unpickling import safe_globals_allowed

_LOCK = threading.RLock()  # for what is replaced in mmengine for a while
_DOWNLOADS: set[str] = set()  # URLs that this process has spoken of
# Under which key a checkpoint holds its weights: mmengine's, that of timm and of many
# papers' code, and others that are in use.
_WEIGHT_KEYS = ("state_dict", "model", "model_state_dict", "module", "net", "weights")
# What wrappers of models put into the names of weights: torch.compile anywhere, and
# likewise checkpointing and FSDP.
_WRAPPERS = re.compile(r"_(orig_mod|(checkpoint|fsdp)_wrapped_module)\.")
_PARALLEL = "module."  # distributed wrappers, before every name
# How files begin that are given for checkpoints and are none.
_BEGINNINGS = {
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML file, as servers answer errors",
    b"version https://git-lfs": "Git LFS's pointer to a file (run `git lfs pull`)",
    b"\x89hdf": "an HDF5 file, as Keras writes them",
    b"gguf": "a GGUF file",
}


def read_checkpoint(path: str | os.PathLike, map_location: Any = "cpu") -> dict:
    """Read a checkpoint.

    Args:
        path: a file, or what mmengine reads: ``http(s)://``, ``open-mmlab://``,
            ``torchvision://``, ``mmcls://``, ``s3://``, ``petrel://``, ``pavi://``.
            Downloads are kept where torch keeps its own.
        map_location: as of ``torch.load``.

    Returns:
        What the file holds, with its weights by name under ``state_dict`` wherever they
        were, and without the names of wrappers in theirs.

    Raises:
        UserError: if there is no such file, or it cannot be had; it is not a
            checkpoint, is damaged, or holds code; or weights are not finite.
    """
    path = os.fspath(path)
    try:
        if "://" in path:
            return _read_remote(path, map_location)
        return _read_file(osp.expanduser(path), map_location)
    except FileNotFoundError as error:
        raise UserError(f"the checkpoint {path} does not exist") from error
    except IsADirectoryError as error:
        raise UserError(f"the checkpoint {path} is a folder") from error
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be read: {error}") from error


def load_checkpoints_safely() -> None:
    """Make every later load of this process, mmengine's own included, a checked one.

    mmengine tries ``weights_only=True`` first, but falls back to running whatever the
    file says, and its ``load_checkpoint``, ``resume`` and ``init_cfg`` take no argument
    against it; downloads are loaded without any check. What reads the bytes for all of
    these is replaced here. torch's documented environment switch reaches what other
    libraries load, in the data loaders' processes, too.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch takes one of them
    for name, reader in _READERS.items():
        setattr(mmengine_checkpoint, name, reader)


def _read_remote(path: str, map_location: Any) -> dict:
    """Let mmengine find the bytes, which is all that it may do with them."""
    with _LOCK:
        theirs = {name: getattr(mmengine_checkpoint, name) for name in _READERS}
        try:
            for name, reader in _READERS.items():
                setattr(mmengine_checkpoint, name, reader)
            return CheckpointLoader.load_checkpoint(path, map_location, "silent")
        except UserError as error:
            # A storage backend gives bytes without a name.
            sentence = str(error) if path in str(error) else f"{path}: {error}"
            raise UserError(sentence) from error
        except KeyError as error:  # of one of mmengine's lists of models
            raise UserError(
                f"the checkpoint {path} is unknown: there is no model {error}"
            ) from error
        except Exception as error:  # of any type: clients of storage have their own
            raise UserError(f"the checkpoint {path} cannot be read: {error}") from error
        finally:
            for name, reader in theirs.items():
                setattr(mmengine_checkpoint, name, reader)


def _read_file(file: str | BinaryIO, map_location: Any = None, *_) -> dict:
    """Stand in for mmengine's ``torch.load``, of a local file or a backend's bytes."""
    if not isinstance(file, str):
        return _read(file, "the content", map_location)
    with open(file, "rb") as stream:
        return _read(stream, file, map_location)


def _read_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress=True
) -> dict:
    """Stand in for ``torch.hub.load_state_dict_from_url``.

    As there a file that was downloaded under the same name is used again; one that is
    no checkpoint is not kept.
    """
    folder = model_dir or osp.join(torch.hub.get_dir(), "checkpoints")
    path = osp.join(folder, osp.basename(urlparse(url).path) or "checkpoint")
    if osp.exists(path):
        if url not in _DOWNLOADS:
            print(f"{url}: using {path}, downloaded before", file=sys.stderr)
            _DOWNLOADS.add(url)
        with open(path, "rb") as stream:
            return _read(stream, f"{path}, kept of {url},", map_location)
    os.makedirs(folder, exist_ok=True)
    unchecked = f"{path}.{uuid.uuid4().hex}.unchecked"
    try:
        torch.hub.download_url_to_file(url, unchecked, progress=progress)
        with open(unchecked, "rb") as stream:
            checkpoint = _read(stream, url, map_location)
        os.replace(unchecked, path)
        _DOWNLOADS.add(url)
    finally:
        if osp.exists(unchecked):
            os.remove(unchecked)
    return checkpoint


class _Torch:
    """Stand in for the module ``torch`` where functions call its ``load``."""

    load = staticmethod(_read_file)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


# What mmengine's loaders call to get from a file, or a URL, to a dict. OpenMMLab's own
# releases call torch.load.
_READERS: dict[str, Any] = dict(load_url=_read_url)
if hasattr(mmengine_checkpoint, "_safe_torch_load"):
    _READERS["_safe_torch_load"] = _read_file
else:
    _READERS["torch"] = _Torch()


def _read(stream: BinaryIO, name: str, map_location: Any) -> dict:
    head = stream.read(64)
    stream.seek(0)
    for beginning, what in _BEGINNINGS.items():
        if head.lstrip().lower().startswith(beginning):
            raise UserError(f"{name} is not a checkpoint of weights, it is {what}")
    if _is_safetensors(head):
        checkpoint = _read_safetensors(stream.read(), name, map_location)
    else:
        checkpoint = _unpickle(stream, name, map_location)
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{name} is not a checkpoint: expected a dict, got {type(checkpoint)}"
        )
    checkpoint = _with_state_dict(checkpoint, name)
    for key in ("state_dict", "ema_state_dict"):
        tensors = checkpoint.get(key)
        broken = find_non_finite(tensors) if isinstance(tensors, Mapping) else []
        if broken:
            raise UserError(
                f"{name} holds NaN or infinity in {len(broken)} tensors, the first is "
                f"{broken[0]}; take a checkpoint from before the training diverged"
            )
    return checkpoint


def _unpickle(stream: BinaryIO, name: str, map_location: Any) -> Any:
    is_zip = stream.read(4) == b"PK\x03\x04"  # as torch tells its format before 1.6
    stream.seek(0)
    _require_known_form(stream, is_zip, name)
    try:
        # What mmengine stores besides tensors. It is not allowed once and for all,
        # because mmengine withdraws the permission after each load of its own.
        with safe_globals_allowed():
            # mmengine often names no device; that of the writer may not be here.
            checkpoint = torch.load(stream, map_location or "cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of any type: bytes that are no pickle mean anything
        # torch's own text advises to load the file unsafely; its useful part is a name.
        foreign = re.search(r"GLOBAL (\S+) (was not an allowed|whose)", str(error))
        if foreign:
            reason = f"it holds a {foreign[1]}"
        else:
            reason = "or is damaged"
        raise UserError(f"{name} is not a checkpoint of weights, {reason}") from error
    if is_zip:
        _require_checksums(stream, name)
    return checkpoint


def _require_known_form(stream: BinaryIO, is_zip: bool, name: str) -> None:
    """Refuse what torch read before 2.6 in spite of ``weights_only=True``."""
    reason = None
    if is_zip:
        with suppress(Exception):  # of any type: what is damaged, torch reports
            with zipfile.ZipFile(stream) as archive:
                if any(n.endswith("/constants.pkl") for n in archive.namelist()):
                    reason = "a model of torch.jit.save; save its state_dict() instead"
    elif tarfile.is_tarfile(stream):
        reason = "a tar archive, torch's format before 0.2; save it with a newer torch"
    stream.seek(0)
    if reason:
        raise UserError(f"{name} is not a checkpoint of weights, it is {reason}")


def _require_checksums(stream: BinaryIO, name: str) -> None:
    """Look at the checksums of a zip file, which torch writes and does not look at."""
    try:
        with zipfile.ZipFile(stream) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # of any type: torch passes over much that is damaged
        raise UserError(f"{name} is damaged: {error}") from error
    if damaged:
        raise UserError(f"{name} is damaged: the checksum of {damaged} is wrong")


def _is_safetensors(head: bytes) -> bool:
    """It begins with the length of a JSON object (8 bytes) and that object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def _read_safetensors(content: bytes, name: str, map_location: Any) -> dict:
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise UserError(
            f"{name} is a safetensors file; `pip install safetensors` to read it"
        ) from error
    try:
        weights = load(content)
    except Exception as error:
        raise UserError(f"{name} is a damaged safetensors file: {error}") from error
    if isinstance(map_location, str | torch.device):
        weights = {key: value.to(map_location) for key, value in weights.items()}
    return dict(state_dict=weights)


def _with_state_dict(checkpoint: dict, name: str) -> dict:
    """Bring weights to the key ``state_dict`` and to the names a model gives them."""
    place = next((k for k in _WEIGHT_KEYS if _is_place(k, checkpoint)), None)
    weights = checkpoint if place is None else checkpoint[place]
    where = "" if place is None else f"{place}: "
    if not isinstance(weights, Mapping):
        raise UserError(
            f"{name} is not a checkpoint of weights: expected tensors by name in its "
            f"{place}, got a {type(weights).__name__}"
        )
    for key, value in weights.items():
        # Modules may add what is no tensor, under this name alone.
        is_weight = isinstance(value, Tensor) or str(key).endswith("_extra_state")
        if not isinstance(key, str) or not is_weight:
            raise UserError(
                f"{name} is not a checkpoint of weights: expected tensors by name, got "
                f"{where}{key!r}: {type(value).__name__}"
            )
    others = (
        {} if place is None else {k: checkpoint[k] for k in checkpoint if k != place}
    )
    return {**others, "state_dict": _without_wrappers(weights)}


def _is_place(key: str, checkpoint: dict) -> bool:
    """``state_dict`` always is one; other keys could be names of weights."""
    return key in checkpoint and (
        key == "state_dict" or isinstance(checkpoint[key], Mapping)
    )


def _without_wrappers(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Remove what wrappers of a model put into the names of its weights."""
    is_parallel = bool(weights) and all(key.startswith(_PARALLEL) for key in weights)

    def bare(key: str) -> str:
        return _WRAPPERS.sub("", key.removeprefix(_PARALLEL) if is_parallel else key)

    if all(bare(key) == key for key in weights):
        return weights
    renamed = OrderedDict((bare(key), value) for key, value in weights.items())
    # Versions of modules, which torch keeps beside their weights; a module's name has
    # no dot behind it.
    versions = getattr(weights, "_metadata", {})
    renamed._metadata = OrderedDict(
        (bare(f"{key}.").removesuffix("."), value) for key, value in versions.items()
    )
    return renamed


def find_non_finite(tensors: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [
        name
        for name, value in tensors.items()
        if isinstance(value, Tensor)
        and value.layout == torch.strided
        and (value.is_floating_point() or value.is_complex())
        and not (value.float() if value.itemsize == 1 else value).isfinite().all()
    ]


_LEAVE_RANDOM = "--allow-missing leaves them random"  # the flag of most tools


def require_fitting_weights(
    runner: Runner,
    path: str,
    allow_missing: bool = False,
    checkpoint: dict | None = None,
    otherwise: str = _LEAVE_RANDOM,
) -> None:
    """Load ``path`` into the runner's model; see :func:`load_fitting_weights`."""
    # Both a distributed wrapper and one for test-time augmentation hold it so.
    model = getattr(runner.model, "module", runner.model)
    model = getattr(model, "module", model)
    load_fitting_weights(model, path, allow_missing, checkpoint, otherwise)


def load_fitting_weights(
    model: nn.Module,
    path: str,
    allow_missing: bool = False,
    checkpoint: dict | None = None,
    otherwise: str = _LEAVE_RANDOM,
) -> None:
    """Load ``path`` into ``model``, which must get all of its weights.

    mmengine only warns of weights that a checkpoint lacks or that have another shape,
    and then evaluates what is left of the random initialisation. Weights are parameters
    and the statistics of batch norms; other buffers are the model's own.

    Args:
        model: on any device.
        path: see :func:`read_checkpoint`.
        allow_missing: let what the checkpoint lacks be random, and say how much it is.
        checkpoint: what :func:`read_checkpoint` returned for it, if it was read before.
        otherwise: what to do about missing weights, for the error's sentence.

    Raises:
        UserError: if a weight is missing, or has another shape.
    """
    try:
        state_dict = (checkpoint or read_checkpoint(path))["state_dict"]
        missing = model.load_state_dict(state_dict, strict=False).missing_keys
    except (RuntimeError, ValueError) as error:  # another shape, even if not strict
        problem = str(error).splitlines()[:2][-1].strip()  # the first of a list
    else:
        weights = dict(model.named_parameters())
        statistics = ("running_mean", "running_var")
        missing = [k for k in missing if k in weights or k.endswith(statistics)]
        if not missing:
            return
        problem = f"{len(missing)} parameters are missing, the first is {missing[0]}"
        if allow_missing:
            print(f"warning: {path}: {problem}; they stay random", file=sys.stderr)
            return
        problem += f"; {otherwise}"
    raise UserError(
        f"the checkpoint {path} does not fit the model of this config: {problem}"
    )
