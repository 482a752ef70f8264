"""What data sets hold: missing and broken files, labels out of range, classes without
samples.

Bounded, so that it takes seconds for ImageNet and COCO: whether files exist is known
from one listing of each folder, which of them are empty from the sizes of
:data:`MAX_SIZES`, and what is in them from :data:`MAX_OPENED`, evenly spaced over the
data set. Annotations come from the lists that the data sets hold in memory.
"""

import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from mmengine.dataset import BaseDataset
from torch import nn

from .markdown import markdown_table

MAX_SIZES = 20_000
MAX_OPENED = 128
# A table of more classes shows the rarest ones.
MAX_ROWS = 40
# Files that mmcv decodes as any pipeline does; others may have a reader of their own.
PICTURES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
IGNORED_LABEL = 255  # of label maps, everywhere in mmseg
# Heads whose number of classes is not that of the data.
OTHER_HEADS = ("RPNHead", "FusedSemanticHead", "VGG")


@dataclass
class Contents:
    """What one data set holds, as far as it was looked at.

    Attributes:
        key: of the data set in the config.
        classes: their names; empty if the data set has none.
        num_pictures: of all.
        pictures: with each label; of label maps, of those that were opened.
        boxes: of each label; empty if the data set has no boxes.
        lacks_boxes: whether it is of a detection in which nothing is annotated.
        maps_opened: how many label maps ``pictures`` is of, 0 for other data sets.
        errors: what makes a training stop or go wrong, a sentence each.
        notes: what it goes on without.
    """

    key: str
    classes: list[str]
    num_pictures: int
    pictures: Counter = field(default_factory=Counter)
    boxes: Counter = field(default_factory=Counter)
    lacks_boxes: bool = False
    maps_opened: int = 0
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[int]:
        """All that should be there."""
        return list(range(len(self.classes))) or sorted(self.pictures)

    @property
    def needed_classes(self) -> int:
        """How many a head must tell apart."""
        return max([len(self.classes), *(label + 1 for label in self.pictures)])

    def warnings(self) -> list[str]:
        """The notes, and classes without samples."""
        missing = [label for label in self.labels if not self.pictures[label]]
        is_complete = not self.maps_opened or self.maps_opened == self.num_pictures
        if not missing or not self.pictures or not is_complete:
            return self.notes
        names = [self.name(label) for label in missing]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        nothing = f"{self.key} has nothing of class {', '.join(names[:5])}{more}"
        return [*self.notes, nothing]

    def name(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else str(label)


def look_into(dataset: BaseDataset, key: str) -> Contents | None:
    """Look at a data set that has been built.

    Args:
        dataset: of any host library; one that keeps no list is left alone.
        key: of it in the config.

    Returns:
        What it holds, None if that cannot be known.
    """
    if not hasattr(dataset, "get_data_info"):
        return None
    classes = list(getattr(dataset, "metainfo", {}).get("classes") or ())
    contents = Contents(key, classes, len(dataset))
    paths: dict[str, list[str]] = dict(img_path=[], seg_map_path=[])
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for name, known in paths.items():
            if isinstance(path := info.get(name), str):
                known.append(path)
        _count_labels(info, contents)
    if not len(dataset):
        contents.errors.append(f"{key} has no pictures")
    uses_maps = "instances" not in info if len(dataset) else False
    contents.lacks_boxes = bool(len(dataset)) and not uses_maps and not contents.boxes
    readable = _check_files(contents, "picture", "img_path", paths["img_path"])
    if uses_maps and paths["seg_map_path"]:
        maps = paths["seg_map_path"]
        readable &= _check_files(contents, "label map", "seg_map_path", maps)
        if not getattr(dataset, "ann_file", None) and not getattr(
            dataset, "_indices", None
        ):  # all pictures of a folder
            suffix = getattr(dataset, "seg_map_suffix", ".png")
            _note_unused_maps(contents, maps, suffix)
    if readable:
        _open_pictures(contents, paths["img_path"])
        if uses_maps and len(paths["seg_map_path"]) == len(paths["img_path"]):
            _open_maps(contents, dataset, paths["seg_map_path"])
    return contents


def head_faults(model: nn.Module, contents: Contents) -> tuple[list[str], list[str]]:
    """Compare the sizes of a model's heads with the classes of its data.

    Returns:
        Errors, of heads that are too small, and warnings, of those that are too large.
    """
    errors, warnings = [], []
    needed = contents.needed_classes
    for name, module in model.named_modules():
        number = getattr(module, "num_classes", None)
        is_other = type(module).__name__.endswith(OTHER_HEADS) or "backbone" in name
        if is_other or type(number) is not int or number < 1:
            continue
        if not needed or number == needed:
            continue
        sentence = (
            f"model.{name}.num_classes is {number} and {contents.key} has {needed} "
            f"classes ({contents.name(0)} to {contents.name(needed - 1)})"
        )
        (errors if number < needed else warnings).append(sentence)
    return errors, warnings


def table(all_contents: Sequence[Contents]) -> str:
    """One table of all: totals, then a row a class."""
    columns = []
    for contents in all_contents:
        maps = f" ({contents.maps_opened} opened)" if contents.maps_opened else ""
        kind = "label maps with it" if maps else "pictures with it"
        key = contents.key.removesuffix(".dataset")
        columns.append((f"{key}: {kind}{maps}", contents, contents.pictures))
        if contents.boxes:
            columns.append((f"{key}: boxes", contents, contents.boxes))
    totals = ["all"]
    for _, contents, counts in columns:
        is_boxes = counts is contents.boxes
        totals.append(str(counts.total() if is_boxes else contents.num_pictures))
    first = max(all_contents, key=lambda contents: len(contents.labels))
    if not any(counts for _, _, counts in columns):  # nothing is known of labels
        return markdown_table(["", *(title for title, _, _ in columns)], [totals])
    shown = labels = first.labels
    if len(labels) > MAX_ROWS:
        rarity = {n: sum(counts[n] for _, _, counts in columns) for n in labels}
        shown = sorted(sorted(labels, key=rarity.get)[:MAX_ROWS])
    rows = [
        [first.name(label), *(str(counts[label]) for _, _, counts in columns)]
        for label in shown
    ]
    if len(labels) > len(shown):
        rows.append([f"{len(labels) - len(shown)} more"] + [""] * len(columns))
    return markdown_table(
        ["class", *(title for title, _, _ in columns)], [totals, *rows]
    )


def _count_labels(info: dict, contents: Contents) -> None:
    """Count the labels of one picture, of classification or of detection."""
    labels = info.get("gt_label")
    if labels is None:
        instances = info.get("instances") or []
        kept = [box for box in instances if not box.get("ignore_flag")]
        labels = [box["bbox_label"] for box in kept if "bbox_label" in box]
        contents.boxes.update(labels)
    if not isinstance(labels, int):  # of which there may be a million
        labels = set(np.atleast_1d(labels).tolist())
    for label in [labels] if isinstance(labels, int) else labels:
        contents.pictures[label] += 1
        if contents.classes and not 0 <= label < len(contents.classes):
            if contents.errors:  # the first one is enough
                continue
            contents.errors.append(
                f"{info.get('img_path')} has the label {label}, and "
                f"{contents.key}.metainfo.classes has {len(contents.classes)} classes"
            )


def _check_files(contents: Contents, what: str, field: str, paths: list[str]) -> bool:
    """Whether all files are there and not empty, as far as it was looked at."""
    local = [path for path in paths if "://" not in path]
    faults = {"do not exist": list(_missing(local))}
    if not faults["do not exist"]:
        sampled = evenly_spaced(local, MAX_SIZES)
        faults["are empty files"] = [path for path in sampled if not osp.getsize(path)]
    for fault, found in faults.items():
        if found:
            contents.errors.append(
                f"{contents.key}: {len(found)} of {len(paths)} {what}s {fault}, the "
                f"first is {found[0]} ({field})"
            )
    return not any(faults.values())


def _note_unused_maps(contents: Contents, maps: list[str], suffix: str) -> None:
    """Say of label maps beside those in use that their pictures are missing."""
    used = set(maps)
    unused = [
        path
        for folder in sorted({osp.dirname(path) for path in used if "://" not in path})
        if osp.isdir(folder)
        for name in os.listdir(folder)
        if name.endswith(suffix) and (path := osp.join(folder, name)) not in used
    ]
    if unused:
        contents.notes.append(
            f"{contents.key}: {len(unused)} label maps have no picture, as "
            f"{min(unused)}, and are left out"
        )


def _missing(paths: list[str]) -> Iterator[str]:
    """Yield the files that are not in the listings of their folders."""
    listings: dict[str, set[str]] = {}
    for path in paths:
        folder, name = osp.split(path)
        if folder not in listings:
            is_there = osp.isdir(folder or ".")
            listings[folder] = set(os.listdir(folder or ".")) if is_there else set()
        if name not in listings[folder]:
            yield path


def _open_pictures(contents: Contents, paths: list[str]) -> None:
    for path in evenly_spaced(paths, MAX_OPENED):
        if _is_picture(path) and _decode(path, "color", "cv2") is None:
            contents.errors.append(
                f"{path} ({contents.key}) cannot be read as a picture"
            )
            return


def _open_maps(contents: Contents, dataset: BaseDataset, paths: list[str]) -> None:
    """Look at values of label maps as mmseg reads them, and count their classes."""
    raw_values: set[int] = set()
    allowed = len(contents.classes) or IGNORED_LABEL
    for path in filter(_is_picture, evenly_spaced(paths, MAX_OPENED)):
        labels = _decode(path, "unchanged", "pillow")  # palettes: indices, no colours
        if labels is None or labels.squeeze().ndim != 2:
            shape = "no picture" if labels is None else f"of shape {labels.shape}"
            contents.errors.append(
                f"the label map {path} ({contents.key}) must have one channel, it is "
                f"{shape}"
            )
            return
        values = set(np.unique(labels).tolist())
        raw_values |= values
        values = _mapped(values, dataset)
        if wrong := sorted(n for n in values if not 0 <= n < allowed):
            contents.errors.append(
                f"the label map {path} has the value {wrong[0]}, and {contents.key}"
                f".metainfo.classes has {len(contents.classes)} classes"
            )
            return
        contents.pictures.update(values)
        contents.maps_opened += 1
    if raw_values == {0, IGNORED_LABEL} and allowed > 1:
        contents.errors.append(
            f"the label maps of {contents.key} hold only 0 and {IGNORED_LABEL}, as "
            f"{paths[0]}, and {IGNORED_LABEL} is the label that is ignored: nothing "
            f"would be learned of class {contents.name(1)}; write it as 1"
        )


def _mapped(values: set[int], dataset: BaseDataset) -> set[int]:
    """Values of a label map as the pipeline changes them, without the ignored one."""
    if getattr(dataset, "reduce_zero_label", False):
        values = {n - 1 for n in values if n not in (0, IGNORED_LABEL)}
    if label_map := getattr(dataset, "label_map", None):
        values = {label_map.get(n, n) for n in values}
    return values - {IGNORED_LABEL}


def _is_picture(path: str) -> bool:
    return "://" not in path and path.lower().endswith(PICTURES)


def _decode(path: str, flag: str, backend: str) -> np.ndarray | None:
    import mmcv  # which the host libraries need, and this package alone does not

    with open(path, "rb") as file:
        content = file.read()
    try:
        return mmcv.imfrombytes(content, flag=flag, backend=backend)
    except Exception:  # of any type: bytes that are no picture mean anything
        return None


def evenly_spaced(items: Sequence, most: int) -> list:
    """At most so many of the items, the first among them."""
    step = max(1, -(-len(items) // most))
    return list(items[::step])
