"""What a tool has left in the folder of a case."""

import hashlib
import json
import os
from pathlib import Path

import torch

from setformer_mm.utils.checkpoints import read_checkpoint
from setformer_mm.utils.errors import UserError

from .campaign import IDENTICAL, REFUSED, Fault
from .child import End

# Results and checkpoints; logs and copies of configs hold times and paths.
PATTERNS = (
    "out*",
    "out*/**/*",
    "ablation/**/*",
    "run/*.json",
    "run/**/*epoch_*.pth",
    "run/**/*iter_*.pth",
)
UNFINISHED = "**/*.partial"
# Of a checkpoint; besides, it holds times.
PARTS = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")


def products(folder: Path) -> dict[str, str]:
    """Digest what makes a result, by the names of files.

    Raises:
        Fault: if something is unfinished.
    """
    if unfinished := [str(path) for path in folder.glob(UNFINISHED)]:
        raise Fault(f"left half-written: {unfinished}")
    found = {path for pattern in PATTERNS for path in folder.glob(pattern)}
    return {
        str(path.relative_to(folder)): _digest_file(path)
        for path in sorted(found)
        if path.is_file()
    }


def refused_or_same(end: End, folder: Path, expected: dict[str, str]) -> str:
    """Outcome of a fault that may be without consequence."""
    if end.status:
        return refused(end, folder)
    end.require(0)
    if (found := products(folder)) != expected:
        different = [k for k in {*found, *expected} if found.get(k) != expected.get(k)]
        raise Fault(f"accepted, and the result differs: {sorted(different)}")
    return IDENTICAL


def refused(end: End, folder: Path, word: str = "") -> str:
    """Outcome of a fault that must be refused, with a word in the sentence."""
    sentence = end.sentence
    if word not in sentence:
        raise Fault(f"the sentence lacks {word!r}: {sentence}")
    if found := products(folder):
        raise Fault(f"refused, and left {sorted(found)}: {sentence}")
    return REFUSED


def _digest_file(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".pth":
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            raise Fault(f"left a damaged checkpoint: {error}") from error
        return digest({part: checkpoint.get(part) for part in PARTS})
    if path.suffix == ".json":
        content = json.dumps(json.loads(content).get("metrics")).encode()
    return hashlib.sha256(content).hexdigest()


def digest(value: object) -> str:
    """SHA-256 of nested containers of tensors and scalars."""
    sha256 = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, torch.Tensor):
            sha256.update(repr((value.dtype, tuple(value.shape))).encode())
            sha256.update(value.detach().contiguous().view(-1).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                sha256.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            sha256.update(repr(len(value)).encode())
            for item in value:
                add(item)
        elif isinstance(value, str) and os.sep in value:
            sha256.update(os.path.basename(value).encode())  # folders are the case's
        else:
            sha256.update(repr(value).encode())

    add(value)
    return sha256.hexdigest()
