"""Small data sets on the disk, as configs of the three host libraries name them."""

import json
from pathlib import Path

import mmcv
import numpy as np

SIDE = 8


def picture(path: Path, value: int = 0, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (SIDE, SIDE, channels) if channels > 1 else (SIDE, SIDE)
    mmcv.imwrite(np.full(shape, value, np.uint8), str(path))


def folders(root: Path, classes: dict[str, int], **fields) -> dict:
    """Classification, a folder a class: ``{class: pictures}``."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture(root / name / f"{index}.png")
    return dict(type="mmpretrain.CustomDataset", data_prefix=str(root), **fields)


def listed(root: Path, lines: list[str], **fields) -> dict:
    """Classification by a list of pictures and labels, whose pictures are made."""
    for line in lines:
        picture(root / line.rsplit(" ", 1)[0])
    (root / "list.txt").write_text("\n".join(lines))
    return dict(
        type="mmpretrain.CustomDataset",
        data_root=str(root),
        ann_file="list.txt",
        data_prefix="",
        **fields,
    )


def coco(root: Path, categories: list[str], boxes: list[str], **fields) -> dict:
    """Detection: a picture a box, each of a category."""
    ids = {name: 10 + 3 * index for index, name in enumerate(categories)}
    for index in range(len(boxes)):
        picture(root / f"{index}.png")
    content = dict(
        images=[
            dict(id=i, file_name=f"{i}.png", width=SIDE, height=SIDE)
            for i in range(len(boxes))
        ],
        annotations=[
            dict(
                id=i,
                image_id=i,
                category_id=ids[name],
                bbox=[1, 1, 4, 4],
                area=16,
                iscrowd=0,
            )
            for i, name in enumerate(boxes)
        ],
        categories=[dict(id=ids[name], name=name) for name in categories],
    )
    (root / "boxes.json").write_text(json.dumps(content))
    return dict(
        type="mmdet.CocoDataset",
        data_root=str(root),
        ann_file="boxes.json",
        data_prefix=dict(img=""),
        **fields,
    )


def label_maps(root: Path, values: list[int], **fields) -> dict:
    """Segmentation: a picture and a label map a value."""
    for index, value in enumerate(values):
        picture(root / "images" / f"{index}.png")
        picture(root / "maps" / f"{index}.png", value, channels=1)
    return dict(
        type="mmseg.BaseSegDataset",
        data_root=str(root),
        data_prefix=dict(img_path="images", seg_map_path="maps"),
        img_suffix=".png",
        **fields,
    )
