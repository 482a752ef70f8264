"""Find what a run will miss before it starts, and say it in one sentence.

A forgotten data set otherwise shows as a long traceback after minutes of start-up.
"""

import os.path as osp
from collections.abc import Iterator

import torch
from mmengine.config import Config

from setformer_mm.utils.checkpoints import read_checkpoint
from setformer_mm.utils.data_sources import leaf_datasets
from setformer_mm.utils.errors import UserError

DIGITS_HINT = "in the repository run `python tools/prepare_mini_data.py` first"


def require_data(
    cfg: Config, splits: tuple[str, ...], has_options: bool = False
) -> None:
    """Check that the files named by the data loaders of ``splits`` exist.

    Args:
        cfg: a whole config.
        splits: some of "train", "val" and "test".
        has_options: whether the tool has the flag ``--cfg-options``.

    Raises:
        UserError: naming all missing paths and what to do about them.
    """
    missing: dict[str, list[str]] = {}
    fields: list[str] = []
    for split in splits:
        for path, key in _data_paths(cfg, split):
            if _exists(path):
                continue
            if "digits" not in path:
                fields.append(f"{key}=PATH")
            known = [path for paths in missing.values() for path in paths]
            # What lies below a missing folder is missing with it.
            if not any(_is_below(path, folder) for folder in known):
                missing.setdefault(split, []).append(path)
    if missing:
        hint = DIGITS_HINT
        if fields:
            fields = dict.fromkeys(fields)
            hint = (
                "put the data set there (docs/datasets.md says how) or "
                f"{_setting(' '.join(fields), has_options)}"
            )
        parts = [
            f"the {split} data are not complete: {', '.join(paths)} "
            f"{'does' if len(paths) == 1 else 'do'} not exist"
            for split, paths in missing.items()
        ]
        raise UserError("; ".join([*parts, hint]))


def _setting(fields: str, has_options: bool) -> str:
    """How to set fields of a config for a tool."""
    return (
        f"pass --cfg-options {fields}" if has_options else f"set {fields} in the config"
    )


def _data_paths(cfg: Config, split: str) -> Iterator[tuple[str, str]]:
    """Yield each path that a loader names with the field that says where it is."""
    dataloader = cfg.get(f"{split}_dataloader")
    if not dataloader:
        return
    prefix = f"{split}_dataloader.dataset"
    for key, dataset in leaf_datasets(dataloader["dataset"], prefix):
        for path in _paths_of_dataset(dataset):
            yield path, f"{key}.data_root"
    key, evaluators = f"{split}_evaluator", cfg.get(f"{split}_evaluator") or []
    named = {key: evaluators}
    if isinstance(evaluators, list):
        named = {f"{key}.{i}": evaluator for i, evaluator in enumerate(evaluators)}
    for key, evaluator in named.items():
        if path := evaluator.get("ann_file"):
            yield path, f"{key}.ann_file"


def _exists(path: str) -> bool:
    return _is_remote(path) or osp.exists(path)


def _is_below(path: str, folder: str) -> bool:
    folder = osp.join(osp.abspath(folder), "")
    return osp.join(osp.abspath(path), "").startswith(folder)


def data_folders(cfg: Config, splits: tuple[str, ...]) -> list[str]:
    """Where a config's data lie: folders that its data sets name, or else their roots.

    Args:
        cfg: a whole config.
        splits: some of "train", "val" and "test".
    """
    folders = []
    for split in splits:
        if dataloader := cfg.get(f"{split}_dataloader"):
            for _, dataset in leaf_datasets(dataloader["dataset"], ""):
                named = list(_folders_of_dataset(dataset))
                folders += named or filter(None, [dataset.get("data_root")])
    return [folder for folder in dict.fromkeys(folders) if not _is_remote(folder)]


def data_files(cfg: Config, split: str) -> list[str]:
    """Files that a config names for a split, as those of annotations."""
    return [path for path, _ in _data_paths(cfg, split) if osp.isfile(path)]


def require_pretrained_weights(cfg: Config, has_options: bool = False) -> None:
    """Check ``load_from`` and every ``init_cfg=dict(type="Pretrained")`` of the model.

    What a resumed training loads is :func:`require_training_state`'s.

    Args:
        cfg: a whole config.
        has_options: whether the tool has the flag ``--cfg-options``.

    Raises:
        UserError: if a checkpoint is missing or cannot be read, or holds nothing under
            the ``prefix`` of its ``init_cfg``.
    """
    if (path := cfg.get("load_from")) and not cfg.get("resume"):
        if not _exists(osp.expanduser(path)):
            raise UserError(
                f"the checkpoint {path} does not exist; train its config first or "
                f"{_setting('load_from=None', has_options)} to start from scratch"
            )
        read_checkpoint(path)
    for key, init_cfg in _pretrained_init_cfgs(cfg.model, "model"):
        path = init_cfg["checkpoint"]
        if not _is_remote(path) and not osp.isfile(path):
            raise UserError(
                f"the pretrained weights {path} do not exist; train the classification "
                f"config first or {_setting(f'{key}=None', has_options)} to start from "
                "scratch"
            )
        prefix = init_cfg.get("prefix") or ""
        names = read_checkpoint(path)["state_dict"]
        if not any(name.startswith(prefix) for name in names):
            raise UserError(
                f"the pretrained weights {path} hold no parameter named {prefix}*; "
                f"check {key}.prefix"
            )


def require_device(name: str) -> None:
    """Check that what ``--device`` names is there.

    Raises:
        UserError: if not.
    """
    try:
        torch.empty(0, device=name)
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used: {reason}") from error
    if torch.device(name).type == "meta":
        raise UserError("--device meta cannot be used: it computes nothing")


def _paths_of_dataset(dataset: dict) -> Iterator[str]:
    """The root, the annotation file and the folders, joined as mmengine joins them."""
    root = dataset.get("data_root") or ""
    if root:
        yield root
    if ann_file := dataset.get("ann_file"):
        yield _join(root, ann_file)
    yield from _folders_of_dataset(dataset)


def _folders_of_dataset(dataset: dict) -> Iterator[str]:
    root = dataset.get("data_root") or ""
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


def _is_remote(path: str) -> bool:
    return "://" in path


def _join(root: str, path: str) -> str:
    return path if _is_remote(path) else osp.join(root, path)
