"""Whether class names of a config are those of its data, before these are read.

The host libraries drop boxes of a class whose name they do not find, and number the
other classes anew, without a word: a misspelt name shifts labels.
"""

import json
import mmap
import os
import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from .errors import UserError
from .spelling import did_you_mean

# Enough for the categories of most files; doubled until the list ends.
FIRST_BYTES = 1 << 16


def require_known_classes(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check class names and class folders of a config's data sets.

    Reads the categories of annotation files in COCO's format, and lists the folders of
    data sets that have one a class; nothing else is read. A config whose
    ``DataCheckHook`` is not strict is left to that.

    Raises:
        UserError: with all that is wrong.
    """
    hooks = cfg.get("custom_hooks") or []
    if any(h.get("type") == "DataCheckHook" and not h.get("strict", 1) for h in hooks):
        return
    datasets = {}
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmengine")):
        for split in splits:
            if dataloader := cfg.get(f"{split}_dataloader"):
                key = f"{split}_dataloader.dataset"
                for name, fields in leaf_datasets(dataloader["dataset"], key):
                    if (dataset := _build_unread(fields)) is not None:
                        datasets[name] = dataset
    if errors := [*class_errors(datasets)]:
        raise UserError("; ".join(errors))


def class_errors(datasets: dict[str, BaseDataset]) -> Iterator[str]:
    """Class names that make labels wrong; see :func:`class_warnings`, too.

    Args:
        datasets: data sets by their keys in the config, read or not.

    Yields:
        One sentence a fault.
    """
    for key, dataset in datasets.items():
        field = f"{key}.metainfo.classes"
        try:
            categories = _categories(dataset)
        except ValueError as error:
            yield f"{dataset.ann_file} ({key}.ann_file) is not JSON: {error}"
            continue
        if categories:
            for name in _names(dataset):
                if name not in categories:
                    yield (
                        f"{field} has {name!r}, which is none of the "
                        f"{len(categories)} categories of {dataset.ann_file}"
                        f"{did_you_mean(name, categories)}: its boxes would be dropped "
                        "and the labels of others be shifted"
                    )
                    break
    yield from _folder_errors(datasets)


def class_warnings(datasets: dict[str, BaseDataset]) -> Iterator[str]:
    """Class names that are probably not what is wanted.

    Args:
        datasets: as of :func:`class_errors`, which found nothing.

    Yields:
        One sentence a fault.
    """
    for key, dataset in datasets.items():
        field, names = f"{key}.metainfo.classes", _names(dataset)
        if categories := _categories(dataset):
            if unknown := [name for name in categories if name not in names]:
                yield (
                    f"{dataset.ann_file} annotates {_listed(unknown)}, which "
                    f"{field} does not have: these boxes are ignored"
                )
            in_order = [name for name in categories if name in names]
            if in_order != names:
                yield (
                    f"{field} has another order than the categories of "
                    f"{dataset.ann_file}, which decides over labels: pictures would "
                    f"show wrong names; the order is {_listed(in_order)}"
                )
        if folders := _class_folders(dataset):
            same = set(folders) & set(names)
            if same and list(folders) != names:
                wrong = next(n for n, folder in zip(names, folders) if n != folder)
                yield (
                    f"{field} has {wrong!r} where the folders, sorted, have "
                    f"{folders[names.index(wrong)]!r}: folders decide over labels, and "
                    "pictures would show wrong names"
                )
            if skipped := _skipped_files(dataset, folders):
                yield (
                    f"{key} leaves out {len(skipped)} files whose suffix is none of "
                    f"{', '.join(sorted(dataset.extensions))}, as {skipped[0]}"
                )


def leaf_datasets(dataset: dict, key: str) -> Iterator[tuple[str, dict]]:
    """Unwrap ConcatDataset, RepeatDataset, ...; yield ``(config key, dataset)``."""
    if "datasets" in dataset:
        for index, part in enumerate(dataset["datasets"]):
            yield from leaf_datasets(part, f"{key}.datasets.{index}")
    elif "dataset" in dataset:
        yield from leaf_datasets(dataset["dataset"], f"{key}.dataset")
    else:
        yield key, dataset


def unwrapped(dataset: ConfigDict) -> ConfigDict:
    """What RepeatDataset and the like are around, one within the other."""
    while "dataset" in dataset:
        dataset = dataset.dataset
    return dataset


def _folder_errors(datasets: dict[str, BaseDataset]) -> Iterator[str]:
    """A class folder that is not there: against the names, or another data set."""
    folders = {
        key: found
        for key, dataset in datasets.items()
        if (found := _class_folders(dataset)) is not None
    }
    most = max(folders, key=lambda key: len(folders[key]), default=None)
    for key, found in folders.items():
        names, where = _names(datasets[key]), datasets[key].img_prefix
        if hidden := [name for name in found if name.startswith(".")]:
            yield f"{osp.join(where, hidden[0])} counts as a class; delete the folder"
            continue
        absent = [name for name in folders[most] if name not in found]
        if names and len(names) != len(found):
            absent = absent or [name for name in names if name not in found]
            missing = f"; missing may be {_listed(absent)}" if absent else ""
            yield (
                f"{where} has {len(found)} class folders for {len(names)} classes "
                f"({key}.metainfo.classes){missing}"
            )
        elif absent and names in ([], found):  # folders alone number the labels
            yield (
                f"{where} has no class folder {_listed(absent)}, which "
                f"{datasets[most].img_prefix} has: labels are numbered by folders and "
                f"would be shifted in one of them ({key}.data_prefix); an empty folder "
                "keeps the number"
            )


def _build_unread(fields: dict) -> BaseDataset | None:
    """A data set that knows its paths and classes and has read nothing."""
    try:
        return DATASETS.build({**fields, "lazy_init": True, "pipeline": []})
    except Exception:  # a class of one's own, or fields that building it will refuse
        return None


def _names(dataset: BaseDataset) -> list[str]:
    """Class names, those of the folders if a data set that was read has no others."""
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    return [classes] if isinstance(classes, str) else list(classes)


def _categories(dataset: BaseDataset) -> list[str] | None:
    """Names in an annotation file of COCO's format; None if it is of another one."""
    path = getattr(dataset, "ann_file", None)
    if not hasattr(dataset, "COCOAPI") or not path or not osp.isfile(path):
        return None
    return [str(category["name"]) for category in _read_categories(path)]


def _read_categories(path: str) -> list[dict[str, Any]]:
    """The list of categories, without parsing what may be half a gigabyte before it.

    Raises:
        ValueError: if the file is no JSON.
    """
    if osp.getsize(path):
        with open(path, "rb") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                start = content.rfind(b'"categories"') + len(b'"categories"')
                length = FIRST_BYTES
                while start >= len(b'"categories"') and length < 2 * len(content):
                    text = content[start : start + length].decode(errors="ignore")
                    try:
                        found = json.JSONDecoder().raw_decode(text.lstrip(" \t\r\n:"))[
                            0
                        ]
                    except ValueError:
                        length *= 2
                        continue
                    if _are_categories(found):
                        return found
                    break
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    found = content.get("categories") if isinstance(content, dict) else None
    return found if _are_categories(found) else []


def _are_categories(found: object) -> bool:
    return isinstance(found, list) and all(
        isinstance(item, dict) and {"id", "name"} <= item.keys() for item in found
    )


def _class_folders(dataset: BaseDataset) -> list[str] | None:
    """Folders, one a class, of a data set that is laid out so; otherwise None."""
    prefix = getattr(dataset, "img_prefix", None)
    if (
        not getattr(dataset, "with_label", False)
        or not hasattr(dataset, "extensions")
        or getattr(dataset, "ann_file", None)
        or not osp.isdir(prefix or "")
    ):
        return None
    with os.scandir(prefix) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _skipped_files(dataset: BaseDataset, folders: list[str]) -> list[str]:
    """Files in class folders that the data set does not take for pictures."""
    return [
        osp.join(dataset.img_prefix, folder, name)
        for folder in folders
        for name in sorted(os.listdir(osp.join(dataset.img_prefix, folder)))
        if "." in name[1:] and not dataset.is_valid_file(name)
    ]


def _listed(names: list[str], most: int = 5) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([repr(name) for name in names[:most]] + more)
