"""Small data sets of the three tasks, of which something is missing or wrong."""

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import data_sets
import numpy as np
from in_process import run_main
from mmengine.config import Config
from PIL import Image

from .campaign import Case
from .child import End, run
from .outputs import products, refused, refused_or_same

CLASSES = ("even", "odd")
NUMBER = 6  # pictures of a data set
METAINFO = dict(classes=CLASSES)


def classification(root: Path) -> dict:
    lines = [f"{index}.png {index % 2}" for index in range(NUMBER)]
    dataset = data_sets.listed(root, lines, metainfo=METAINFO)
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
    return _config("mmpretrain", dataset, pipeline, root)


def class_folders(root: Path) -> dict:
    dataset = data_sets.folders(root, dict.fromkeys(CLASSES, NUMBER // 2))
    dataset["metainfo"] = METAINFO
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
    return _config("mmpretrain", dataset, pipeline, root)


def detection(root: Path) -> dict:
    boxes = [CLASSES[index % 2] for index in range(NUMBER)]
    dataset = data_sets.coco(root, list(CLASSES), boxes, metainfo=METAINFO)
    pipeline = [dict(type="LoadImageFromFile")]
    pipeline += [dict(type="LoadAnnotations", with_bbox=True)]
    return _config("mmdet", dataset, [*pipeline, dict(type="PackDetInputs")], root)


def segmentation(root: Path) -> dict:
    labels = [index % 2 for index in range(NUMBER)]
    palette = [[0, 0, 0], [255, 255, 255]]
    metainfo = dict(METAINFO, palette=palette)
    dataset = data_sets.label_maps(root, labels, metainfo=metainfo)
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    return _config("mmseg", dataset, [*pipeline, dict(type="PackSegInputs")], root)


TASKS = (classification, class_folders, detection, segmentation)


def _config(scope: str, dataset: dict, pipeline: list[dict], root: Path) -> dict:
    """Train over all pictures once; they are unlike each other."""
    for index, path in enumerate(sorted(root.rglob("*.png"))):
        if "maps" not in path.parts:
            pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    return dict(
        default_scope=scope,
        custom_imports=dict(imports=["setformer_mm", "faults.picture_model"]),
        model=dict(type="PictureModel", _scope_="mmengine"),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=dict(dataset, pipeline=pipeline),
            sampler=dict(type="DefaultSampler", shuffle=False, _scope_="mmengine"),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        default_hooks=dict(checkpoint=dict(type="AtomicCheckpointHook", interval=1)),
        randomness=dict(seed=0),
    )


def _any(root: Path, pattern: str, rng: random.Random) -> Path:
    return rng.choice(sorted(root.glob(pattern)))


def file_missing(root: Path, pattern: str, rng: random.Random) -> None:
    _any(root, pattern, rng).unlink()


def file_emptied(root: Path, pattern: str, rng: random.Random) -> None:
    _any(root, pattern, rng).write_bytes(b"")


def file_truncated(root: Path, pattern: str, rng: random.Random) -> None:
    path = _any(root, pattern, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def file_of_random_bytes(root: Path, pattern: str, rng: random.Random) -> None:
    path = _any(root, pattern, rng)
    path.write_bytes(rng.randbytes(rng.randrange(1, 300)))


def file_is_a_page(root: Path, pattern: str, rng: random.Random) -> None:
    _any(root, pattern, rng).write_text("<!doctype html><p>404 Not Found</p>")


def file_renamed(root: Path, pattern: str, rng: random.Random) -> None:
    path = _any(root, pattern, rng)
    path.rename(path.with_name(f"_{path.name}"))


def folder_missing(root: Path, pattern: str, rng: random.Random) -> None:
    folder = root / rng.choice(CLASSES)
    folder.rename(root.with_name(folder.name))


def folder_misspelt(root: Path, pattern: str, rng: random.Random) -> None:
    folder = root / rng.choice(CLASSES)
    folder.rename(folder.with_name(f"{folder.name}s"))


def _line(root: Path, rng: random.Random, change: Callable[[str], str]) -> None:
    lines = (root / "list.txt").read_text().splitlines()
    index = rng.randrange(len(lines))
    lines[index] = change(lines[index])
    (root / "list.txt").write_text("\n".join(lines))


def label_out_of_range(root: Path, pattern: str, rng: random.Random) -> None:
    label = rng.choice([2, 3, 99, -1])
    _line(root, rng, lambda line: f"{line.split()[0]} {label}")


def label_is_no_number(root: Path, pattern: str, rng: random.Random) -> None:
    label = rng.choice(["", "x", "1.5", "even", "nan"])
    _line(root, rng, lambda line: f"{line.split()[0]} {label}")


def _annotations(root: Path, change: Callable[[dict], None]) -> None:
    path = root / "boxes.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def field_missing(root: Path, pattern: str, rng: random.Random) -> None:
    _annotations(root, lambda c: c.pop(rng.choice(sorted(c))))


def box_lacks_a_field(root: Path, pattern: str, rng: random.Random) -> None:
    name = rng.choice(["bbox", "category_id", "image_id"])
    _annotations(root, lambda c: rng.choice(c["annotations"]).pop(name))


def box_of_wrong_form(root: Path, pattern: str, rng: random.Random) -> None:
    box = rng.choice([None, "text", [1, 2], [1, 1, "4", 4], {}, [1, 1, None, 4]])
    _annotations(root, lambda c: rng.choice(c["annotations"]).update(bbox=box))


def category_misspelt(root: Path, pattern: str, rng: random.Random) -> None:
    _annotations(root, lambda c: rng.choice(c["categories"]).update(name="evn"))


def label_map_out_of_range(root: Path, pattern: str, rng: random.Random) -> None:
    path = _any(root, "maps/*.png", rng)
    labels = np.array(Image.open(path))
    labels.flat[rng.randrange(labels.size)] = rng.randrange(2, 255)
    Image.fromarray(labels).save(path)


def label_map_in_colour(root: Path, pattern: str, rng: random.Random) -> None:
    path = _any(root, "maps/*.png", rng)
    Image.open(path).convert("RGB").save(path)


OF_A_FILE = (file_emptied, file_of_random_bytes, file_is_a_page, file_truncated)
DAMAGES = [
    (task, damage, pattern)
    for task, pattern in (
        (classification, "*.png"),
        (classification, "list.txt"),
        (class_folders, "*/*.png"),
        (detection, "*.png"),
        (detection, "boxes.json"),
        (segmentation, "images/*.png"),
        (segmentation, "maps/*.png"),
    )
    for damage in OF_A_FILE
    if (damage, pattern) != (file_truncated, "list.txt")  # a shorter list is a list
]
DAMAGES += [
    (task, damage, pattern)
    for task, pattern in (
        (classification, "*.png"),
        (classification, "list.txt"),
        (detection, "*.png"),
        (detection, "boxes.json"),
        (segmentation, "maps/*.png"),
    )
    for damage in (file_missing, file_renamed)
]
DAMAGES += [
    *((class_folders, damage, "") for damage in (folder_missing, folder_misspelt)),
    *((classification, d, "") for d in (label_out_of_range, label_is_no_number)),
    (detection, field_missing, ""),
    (detection, box_lacks_a_field, ""),
    (detection, box_of_wrong_form, ""),
    (detection, category_misspelt, ""),
    (segmentation, label_map_out_of_range, ""),
    (segmentation, label_map_in_colour, ""),
]


def draw(rng: random.Random, common: Path) -> Iterator[Case]:
    """Each damage of each task once before any comes again."""
    expected = cache(lambda task: _undamaged(task, common / task.__name__))
    while True:
        for task, damage, pattern in rng.sample(DAMAGES, len(DAMAGES)):
            yield _case(task, damage, pattern, rng.randrange(2**32), expected)


def _undamaged(task: Callable, folder: Path) -> dict[str, str]:
    folder.mkdir()
    _train(task, folder).require(0)
    return products(folder)


def _train(task: Callable, folder: Path, damage=lambda root: None) -> End:
    root = folder / "data"
    root.mkdir()
    config = task(root)
    damage(root)
    Config(config).dump(folder / "config.py")
    arguments = folder / "config.py", "--work-dir", folder / "run"
    return run(lambda: run_main("train", *arguments))


def _case(task: Callable, damage: Callable, pattern: str, seed: int, expected) -> Case:
    def attempt(folder: Path) -> str:
        rng = random.Random(seed)
        end = _train(task, folder, lambda root: damage(root, pattern, rng))
        if damage in (*OF_A_FILE, folder_misspelt):  # folders are told by their order
            return refused_or_same(end, folder, expected(task))
        return refused(end, folder)

    kind = damage.__name__.replace("_", " ")
    return Case(kind, f"{task.__name__} {pattern}, seed {seed}", attempt)
