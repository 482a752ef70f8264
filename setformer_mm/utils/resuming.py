"""Where a stopped training goes on, and what has changed since.

Paths that a training writes down (the pointer ``last_checkpoint``, the best checkpoints
in the message hub) name files of the folder that it ran in. A folder that was copied or
moved is one of its own: of such a path only the file's name counts.
"""

import ast
import os
import os.path as osp
import re
from collections.abc import Mapping
from contextlib import suppress

from mmengine.config import Config

from .checkpoints import read_checkpoint
from .errors import UserError

POINTER = "last_checkpoint"
# What decides how a training goes; other fields show or name things.
COMPARED_FIELDS = (
    "model",
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "auto_scale_lr",
    "custom_hooks",
    "randomness",
)


def checkpoint_folder(cfg: Config) -> str:
    """Where the checkpoints of a config's training lie, as mmengine's hook decides."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if out_dir := hook.get("out_dir"):
        return osp.join(out_dir, osp.basename(cfg.work_dir.rstrip(osp.sep)))
    return cfg.work_dir


def inside(folder: str, path: str) -> str:
    """The file of this name in ``folder``; an address of remote storage as it is."""
    return path if "://" in path else osp.join(folder, osp.basename(path))


def last_checkpoint(work_dir: str, folder: str | None = None) -> str | None:
    """The file that the pointer in ``work_dir`` names, if it lies in ``folder``."""
    named = _read_pointer(work_dir)
    path = inside(folder or work_dir, named) if named else ""
    return path if "://" in path or osp.isfile(path) else None


def find_checkpoint(work_dir: str, folder: str | None = None) -> tuple[str | None, str]:
    """Find where to go on: what the pointer names, else the newest whole checkpoint.

    Args:
        work_dir: of the run.
        folder: where its checkpoints lie, if not there.

    Returns:
        The path, None if nothing was ever saved; and a sentence on what was wrong with
        the pointer, empty if nothing.

    Raises:
        UserError: if there are checkpoints and none of them can be resumed, or a
            pointer to one and none at all.
    """
    folder = folder or work_dir
    if path := last_checkpoint(work_dir, folder):
        return path, ""
    named, pointer = _read_pointer(work_dir), osp.join(work_dir, POINTER)
    candidates = _numbered_checkpoints(folder)
    if named:
        problem = f"{pointer} names {named}, which is not in {folder}"
    else:
        problem = f"{pointer} {'does not exist' if named is None else 'is empty'}"
    for path in candidates:
        with suppress(UserError):
            require_training_state(path)
            return path, f"{problem}; going on from the newest whole one, {path}"
    if candidates:
        raise UserError(
            f"{problem}, and none of the checkpoints in {folder} can be resumed: "
            f"{', '.join(map(osp.basename, candidates))}; delete them to start anew"
        )
    if named:
        raise UserError(
            f"{problem}; copy it there, or go on from it with --resume {named}"
        )
    return None, ""


def _read_pointer(work_dir: str) -> str | None:
    """What is in the pointer, None if there is none."""
    try:
        with open(
            osp.join(work_dir, POINTER), encoding="utf-8", errors="replace"
        ) as file:
            return file.read().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _numbered_checkpoints(folder: str) -> list[str]:
    """Checkpoints in the course of a training, the newest first."""
    if not osp.isdir(folder):
        return []
    numbered = {
        name: int(found[1])
        for name in os.listdir(folder)
        if (found := re.search(r"_(\d+)\.pth$", name)) and not name.startswith("best_")
    }
    return [osp.join(folder, name) for name in sorted(numbered, key=numbered.get)][::-1]


def start_anew(path: str) -> str:
    """What to do with a checkpoint that cannot be resumed, for an error's sentence."""
    return f"to start a new training from it pass --cfg-options load_from={path}"


def require_training_state(path: str, has_schedule: bool = False) -> dict:
    """Check that a checkpoint holds what resuming a training needs besides weights.

    mmengine would resume without: what a checkpoint lacks begins anew, unsaid.

    Args:
        path: of the checkpoint.
        has_schedule: whether the training has ``param_scheduler``, whose state is
            needed, too.

    Returns:
        What was read.

    Raises:
        UserError: if it does not, or counts what cannot be counted, or is no
            checkpoint.
    """
    checkpoint = read_checkpoint(path)
    problem = None
    if "message_hub" not in checkpoint:
        problem = "holds weights and no state of a training to resume"
    elif "optimizer" not in checkpoint:
        problem = (
            "holds no state of the optimiser, like best checkpoints, and cannot be "
            "resumed"
        )
    elif has_schedule and "param_schedulers" not in checkpoint:
        problem = "holds no state of the schedule and cannot be resumed"
    elif part := _malformed_part(checkpoint):
        problem = f"cannot be resumed: its {part} is not what mmengine writes"
    if problem:
        raise UserError(f"{path} {problem}; {start_anew(path)}")
    return checkpoint


def _malformed_part(checkpoint: dict) -> str | None:
    """Name a part of a training's state that is not of its form, if there is one.

    Of those that would be taken as they are; of others loading speaks.
    """
    if not isinstance(meta := checkpoint.get("meta"), Mapping):
        return "meta"
    for name in ("epoch", "iter", "seed"):
        value = meta.get(name)
        if name == "seed" and value is None:  # older mmengine did not write it
            continue
        if type(value) is not int or not 0 <= value < 2**32:
            return f"meta.{name}"
    return None


def recorded_settings(text: str) -> dict:
    """Read the text of a config (``Config.pretty_text``) without executing it.

    Returns:
        Dicts, lists and scalars; what is neither (the name of a class) as its text.

    Raises:
        ValueError: if it is no Python at all.
    """
    try:
        nodes = ast.parse(text).body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not the text of a config: {error}") from error
    return {
        target.id: _plain(node.value)
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _plain(node: ast.AST):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "dict" and not node.args:
            return {word.arg: _plain(word.value) for word in node.keywords}
        # dict({...}): keys that are no names
        if node.func.id == "dict" and len(node.args) == 1 and not node.keywords:
            return _plain(node.args[0])
    if isinstance(node, ast.Dict):
        return {
            str(_plain(key)): _plain(value)
            for key, value in zip(node.keys, node.values)
            if key is not None
        }
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return ast.unparse(node)


def differences(old: dict, new: dict) -> dict[str, tuple]:
    """Compare two results of :func:`recorded_settings` in :data:`COMPARED_FIELDS`.

    Returns:
        ``{dotted key: (old, new)}``; "not set" stands for a missing one.
    """
    found: dict[str, tuple] = {}
    for name in COMPARED_FIELDS:
        # A file that leaves a field out means the same as one that sets it to None.
        _compare(name, old.get(name), new.get(name), found)
    return found


def _compare(key: str, old, new, found: dict[str, tuple]) -> None:
    if old == new:
        return
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        if all(isinstance(item, dict) for item in old + new):
            old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}, key=str):
            pair = old.get(name, "not set"), new.get(name, "not set")
            _compare(f"{key}.{name}", *pair, found)
    else:
        found[key] = old, new


def describe(found: dict[str, tuple], most: int = 8) -> str:
    """``key: old -> new`` of some differences, in one line."""
    parts = [f"{key}: {_short(a)} -> {_short(b)}" for key, (a, b) in found.items()]
    more = [f"and {len(parts) - most} more"] if len(parts) > most else []
    return "; ".join(parts[:most] + more)


def _short(value, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
