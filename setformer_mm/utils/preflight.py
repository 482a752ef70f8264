"""Find what a run will miss before it starts, and say it in one sentence.

A forgotten data set otherwise shows as a long traceback after minutes of start-up.
"""

import os.path as osp
import re
import zipfile
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from .safe_unpickling import safe_globals

DIGITS_HINT = "run `python tools/prepare_mini_data.py` first"


class UserError(Exception):
    """A mistake that the user can mend: shown as one sentence, without traceback."""


def require_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the files named by the data loaders of ``splits`` exist.

    Args:
        cfg: a whole config.
        splits: some of "train", "val" and "test".

    Raises:
        UserError: naming the first missing path and what to do about it.
    """
    for split in splits:
        dataloader = cfg.get(f"{split}_dataloader")
        if not dataloader:
            continue
        prefix = f"{split}_dataloader.dataset"
        for key, dataset in _leaf_datasets(dataloader["dataset"], prefix):
            for path in _paths_of_dataset(dataset):
                _require_data_path(path, split, f"{key}.data_root")
        for evaluator in _as_list(cfg.get(f"{split}_evaluator") or []):
            if path := evaluator.get("ann_file"):
                _require_data_path(path, split, f"{split}_evaluator.ann_file")


def require_pretrained_weights(cfg: Config) -> None:
    """Check every ``init_cfg=dict(type="Pretrained")`` of the model.

    Raises:
        UserError: if its checkpoint is missing or holds nothing under its ``prefix``.
    """
    for key, init_cfg in _pretrained_init_cfgs(cfg.model, "model"):
        path = init_cfg["checkpoint"]
        if _is_remote(path):
            continue
        if not osp.isfile(path):
            raise UserError(
                f"the pretrained weights {path} do not exist; train the classification "
                f"config first or pass --cfg-options {key}=None to start from scratch"
            )
        checkpoint = read_checkpoint(path)
        prefix = init_cfg.get("prefix") or ""
        names = checkpoint.get("state_dict", checkpoint)
        if not any(name.startswith(prefix) for name in names):
            raise UserError(
                f"the pretrained weights {path} hold no parameter named {prefix}*; "
                f"check {key}.prefix"
            )


def read_checkpoint(path: str) -> dict:
    """Load a checkpoint file to the CPU with torch's ``weights_only`` unpickler.

    Raises:
        UserError: if there is no such file, it is not a checkpoint, or it is damaged.
    """
    if not osp.isfile(path):
        raise UserError(f"the checkpoint {path} does not exist")
    try:
        # What mmengine stores besides tensors. It is not allowed once and for all,
        # because mmengine withdraws the permission after each load of its own.
        with torch.serialization.safe_globals(safe_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of any type: bytes that are no pickle mean anything
        # torch's own text advises to load the file unsafely; its useful part is a name.
        foreign = re.search(r"GLOBAL (\S+) (was not an allowed|whose)", str(error))
        reason = f"it holds a {foreign[1]}" if foreign else "or is damaged"
        raise UserError(f"{path} is not a checkpoint of weights, {reason}") from error
    _require_checksums(path)
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{path} is not a checkpoint: expected a dict, got {type(checkpoint)}"
        )
    return checkpoint


def _require_checksums(path: str) -> None:
    """Check the sums that torch writes into a checkpoint and does not look at."""
    if not zipfile.is_zipfile(path):  # torch's format before 1.6 has none
        return
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise UserError(f"{path} is damaged: the checksum of {damaged} is wrong")


def require_training_state(path: str) -> None:
    """Check that a checkpoint holds what resuming a training needs besides weights.

    Raises:
        UserError: if it does not, or is no checkpoint.
    """
    if "message_hub" not in read_checkpoint(path):
        raise UserError(
            f"{path} holds weights and no state of a training to resume; to start a "
            f"new one from these weights pass --cfg-options load_from={path}"
        )


def require_fitting_weights(runner: Runner, path: str) -> None:
    """Load ``path`` into the runner's model; see :func:`load_fitting_weights`."""
    # Both a distributed wrapper and one for test-time augmentation hold it so.
    model = getattr(runner.model, "module", runner.model)
    load_fitting_weights(getattr(model, "module", model), path)


def load_fitting_weights(model: nn.Module, path: str) -> None:
    """Load ``path`` into ``model``, which must get all of its parameters.

    mmengine only warns of parameters that a checkpoint lacks or that have another
    shape, and then evaluates what is left of the random initialisation.

    Raises:
        UserError: if a parameter is missing or has another shape.
    """
    state_dict = read_checkpoint(path)
    state_dict = state_dict.get("state_dict", state_dict)
    try:
        missing = model.load_state_dict(state_dict, strict=False).missing_keys
    except RuntimeError as error:  # another shape, even if not strict
        problem = str(error).splitlines()[1].strip()
    else:
        parameters = dict(model.named_parameters())
        missing = [name for name in missing if name in parameters]
        if not missing:
            return
        problem = f"{len(missing)} parameters are missing, the first is {missing[0]}"
    raise UserError(
        f"the checkpoint {path} does not fit the model of this config: {problem}"
    )


def _require_data_path(path: str, split: str, key: str) -> None:
    if _is_remote(path) or osp.exists(path):
        return
    if "digits" in path:
        hint = DIGITS_HINT
    else:
        hint = (
            "put the data set there (README.md says how) or name its place with "
            f"--cfg-options {key}=PATH"
        )
    raise UserError(f"the {split} data are not complete: {path} does not exist; {hint}")


def _leaf_datasets(dataset: dict, key: str) -> Iterator[tuple[str, dict]]:
    """Unwrap ConcatDataset, RepeatDataset, ...; yield ``(config key, dataset)``."""
    if "datasets" in dataset:
        for index, part in enumerate(dataset["datasets"]):
            yield from _leaf_datasets(part, f"{key}.datasets.{index}")
    elif "dataset" in dataset:
        yield from _leaf_datasets(dataset["dataset"], f"{key}.dataset")
    else:
        yield key, dataset


def _paths_of_dataset(dataset: dict) -> Iterator[str]:
    """The root, the annotation file and the folders, joined as mmengine joins them."""
    root = dataset.get("data_root") or ""
    if root:
        yield root
    if ann_file := dataset.get("ann_file"):
        yield _join(root, ann_file)
    prefixes = dataset.get("data_prefix") or {}
    for prefix in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
        if isinstance(prefix, str) and prefix:
            yield _join(root, prefix)


def _pretrained_init_cfgs(node, key: str) -> Iterator[tuple[str, dict]]:
    """Yield ``(config key, init_cfg)`` for each checkpoint named inside a model."""
    if isinstance(node, dict):
        if node.get("type") == "Pretrained" and node.get("checkpoint"):
            yield key, node
        for name, child in node.items():
            yield from _pretrained_init_cfgs(child, f"{key}.{name}")
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield from _pretrained_init_cfgs(child, f"{key}.{index}")


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def _is_remote(path: str) -> bool:
    return "://" in path


def _join(root: str, path: str) -> str:
    return path if _is_remote(path) else osp.join(root, path)
