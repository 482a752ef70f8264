"""Missing and broken files, labels out of range, classes without samples."""

import pytest

pytest.importorskip("mmpretrain")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from data_sets import coco, folders, label_maps, listed, picture
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image
from torch import nn

from setformer_mm.utils import data_contents
from setformer_mm.utils.data_contents import (
    evenly_spaced,
    head_faults,
    look_into,
    table,
)

KEY = "train_dataloader.dataset"


def look(dataset: dict, **fields):
    return look_into(DATASETS.build({**dataset, **fields}), KEY)


def classes(*names: str) -> dict:
    return dict(classes=names)


def test_counts_of_classification(tmp_path):
    found = look(folders(tmp_path, dict(a=2, b=0, c=3)))
    assert (found.num_pictures, found.errors) == (5, [])
    assert found.pictures == {0: 2, 2: 3}
    assert found.warnings() == [f"{KEY} has nothing of class b"]


def test_counts_of_detection(tmp_path):
    dataset = coco(tmp_path, ["cat", "dog"], ["dog", "dog", "dog"])
    found = look(dataset, metainfo=classes("cat", "dog"))
    assert found.boxes == found.pictures == {1: 3} and found.errors == []
    assert found.warnings() == [f"{KEY} has nothing of class cat"]
    cells = [cell.strip() for cell in table([found]).splitlines()[-1].split("|")]
    assert cells == ["", "dog", "3", "3", ""]


def test_counts_of_segmentation(tmp_path):
    dataset = label_maps(tmp_path, [0, 1, 1, 255])
    found = look(dataset, metainfo=classes("a", "b", "c"))
    assert found.pictures == {0: 1, 1: 2} and found.maps_opened == 4
    assert found.warnings() == [f"{KEY} has nothing of class c"]
    reduced = look(dataset, metainfo=classes("b"), reduce_zero_label=True)
    assert reduced.pictures == {0: 2} and reduced.errors == []


def test_missing_pictures(tmp_path):
    lines = [f"{folder}/{i}.png {i % 2}" for folder in "ab" for i in range(4)]
    dataset = listed(tmp_path, lines, metainfo=classes("even", "odd"))
    assert look(dataset).errors == []
    for name in ("a/1.png", "b/3.png"):
        (tmp_path / name).unlink()
    (sentence,) = look(dataset).errors
    assert sentence == (
        f"{KEY}: 2 of 8 pictures do not exist, the first is {tmp_path}/a/1.png "
        "(img_path)"
    )


def test_missing_pictures_of_detection(tmp_path):
    dataset = coco(tmp_path, ["cat"], ["cat"] * 3, metainfo=classes("cat"))
    (tmp_path / "1.png").unlink()
    (sentence,) = look(dataset).errors
    assert "1 of 3 pictures do not exist" in sentence and "/1.png" in sentence


def test_missing_label_maps(tmp_path):
    dataset = label_maps(tmp_path, [0, 1], metainfo=classes("a", "b"))
    (tmp_path / "maps" / "0.png").unlink()
    (sentence,) = look(dataset).errors
    assert "1 of 2 label maps do not exist" in sentence and "maps/0.png" in sentence


def test_pictures_that_segmentation_would_drop(tmp_path):
    dataset = label_maps(tmp_path, [0, 1], metainfo=classes("a", "b"))
    (tmp_path / "images" / "0.png").unlink()
    (sentence,) = look(dataset).notes
    assert look(dataset).warnings()[0] == sentence
    assert look(dataset, indices=1).notes == []
    assert "1 label maps have no picture, as" in sentence and "maps/0.png" in sentence


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "are empty files"), (b"<html>no</html>", "cannot be read as a picture")],
)
def test_pictures_that_are_none(tmp_path, content, fault):
    dataset = folders(tmp_path, dict(a=2, b=2))
    (tmp_path / "b" / "1.png").write_bytes(content)
    (sentence,) = look(dataset).errors
    assert fault in sentence and f"{tmp_path}/b/1.png" in sentence


def test_labels_out_of_range(tmp_path):
    lines = ["a.png 0", "b.png 2", "c.png 1"]
    (sentence,) = look(listed(tmp_path, lines), metainfo=classes("x", "y")).errors
    assert sentence.startswith(f"{tmp_path}/b.png has the label 2, and {KEY}.metainfo")


def test_label_maps_out_of_range(tmp_path):
    dataset = label_maps(tmp_path, [0, 7], metainfo=classes("a", "b"))
    (sentence,) = look(dataset).errors
    assert f"{tmp_path}/maps/1.png has the value 7" in sentence
    assert f"{KEY}.metainfo.classes has 2 classes" in sentence


def test_label_maps_in_colour(tmp_path):
    dataset = label_maps(tmp_path, [0, 1], metainfo=classes("a", "b"))
    picture(tmp_path / "maps" / "1.png", 1)
    (sentence,) = look(dataset).errors
    assert "maps/1.png" in sentence and "must have one channel" in sentence


def test_label_maps_with_a_palette(tmp_path):
    """As Pascal VOC's: the values are indices, which mmseg reads by Pillow."""
    dataset = label_maps(tmp_path, [0, 1], metainfo=classes("a", "b"))
    for path in (tmp_path / "maps").iterdir():
        image = Image.open(path).convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(path)
        assert Image.open(path).mode == "P"
    found = look(dataset)
    assert found.errors == [] and found.pictures == {0: 1, 1: 1}


def test_binary_masks_of_0_and_255(tmp_path):
    dataset = label_maps(tmp_path, [0, 255], metainfo=classes("ground", "road"))
    (sentence,) = look(dataset).errors
    assert "hold only 0 and 255" in sentence and "nothing would be learned" in sentence
    assert "class road; write it as 1" in sentence


def test_files_with_a_reader_of_their_own(tmp_path):
    """As satellite pictures of many channels, which mmcv cannot decode."""
    dataset = label_maps(tmp_path, [0, 1], metainfo=classes("a", "b"))
    for path in (tmp_path / "images").iterdir():
        path.with_suffix(".tif").write_bytes(b"eight channels")
    assert look(dataset, img_suffix=".tif").errors == []


def test_an_empty_data_set():
    class Empty(BaseDataset):
        def load_data_list(self):
            return []

    found = look_into(Empty(serialize_data=False), KEY)
    assert found.errors == [f"{KEY} has no pictures"]
    assert table([found])


def test_heads_and_classes(tmp_path):
    found = look(folders(tmp_path, dict(a=1, b=1, c=1)))
    model = nn.ModuleDict(dict(backbone=nn.Linear(1, 1), head=nn.Linear(1, 1)))
    for number, faults in ((3, (0, 0)), (2, (1, 0)), (80, (0, 1))):
        model.head.num_classes = number
        result = head_faults(model, found)
        assert tuple(map(len, result)) == faults
    (sentence,) = result[1]
    assert sentence == (
        f"model.head.num_classes is 80 and {KEY} has 3 classes (a to c)"
    )


class Many(BaseDataset):
    """As many pictures as COCO or ImageNet, in folders that were never made."""

    METAINFO = dict(classes=[f"class {n}" for n in range(1000)])

    def __init__(self, count: int, root: str) -> None:
        self.count, self.root = count, root
        super().__init__()

    def load_data_list(self):
        return [
            dict(img_path=f"{self.root}/{n % 100}/{n}.jpg", gt_label=n % 999)
            for n in range(self.count)
        ]


def test_large_data_sets_are_looked_at_in_part(tmp_path, monkeypatch):
    dataset = Many(5000, str(tmp_path))
    names = [info["img_path"] for info in map(dataset.get_data_info, range(5000))]
    counts = dict(listed=0, sizes=0, opened=0)
    by_folder: dict[str, list[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        by_folder.setdefault(folder, []).append(base)

    def count(kind, value):
        counts[kind] += 1
        return value

    monkeypatch.setattr(data_contents, "MAX_SIZES", 1000)
    monkeypatch.setattr(data_contents, "MAX_OPENED", 10)
    monkeypatch.setattr(data_contents.osp, "isdir", lambda path: True)
    monkeypatch.setattr(
        data_contents.os, "listdir", lambda path: count("listed", by_folder[path])
    )
    monkeypatch.setattr(data_contents.osp, "getsize", lambda path: count("sizes", 1))
    monkeypatch.setattr(
        data_contents, "_decode", lambda path, *_: count("opened", path)
    )
    found = look_into(dataset, KEY)
    assert found.errors == [] and counts == dict(listed=100, sizes=1000, opened=10)
    assert found.warnings() == [f"{KEY} has nothing of class class 999"]
    lines = table([found]).splitlines()
    assert len(lines) == 3 + data_contents.MAX_ROWS + 1 and "960 more" in lines[-1]


def test_evenly_spaced():
    assert evenly_spaced(range(10), 3) == [0, 4, 8]
    assert evenly_spaced(range(3), 3) == [0, 1, 2]
    assert evenly_spaced([], 3) == []
