"""Class names are the config's, its data set's or the checkpoint's, in this order."""

from pathlib import Path

import pytest
from mmengine.config import Config

from toolkit.class_names import read_class_names

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("config", "count", "first"),
    [
        ("setformer_t_in1k", 1000, "tench"),
        ("mask_rcnn_setformer_t", 80, "person"),
        ("upernet_setformer_t", 150, "wall"),
    ],
)
def test_names_of_the_data_set(config, count, first):
    cfg = Config.fromfile(CONFIGS / f"{config}.py")
    others = dict(meta=dict(dataset_meta=dict(classes=["a"])))
    classes = read_class_names(cfg, others)["classes"]
    assert len(classes) == count and classes[0].startswith(first)


def test_order():
    dataset = dict(type="Unknown", metainfo=dict(classes=("a", "b")))
    cfg = Config(dict(test_dataloader=dict(dataset=dict(type="X", dataset=dataset))))
    meta = dict(classes=["c"], palette=[(1, 2, 3)])
    names = read_class_names(cfg, dict(meta=dict(dataset_meta=meta)))
    assert names == dict(classes=("a", "b"), palette=[(1, 2, 3)])


@pytest.mark.parametrize("place", ["metainfo", "field"])
def test_names_in_a_file(tmp_path, place):
    path = tmp_path / "names.txt"
    path.write_text("a cat\na dog\n")
    fields = dict(classes=str(path))
    dataset = dict(type="Unknown", **(fields if place == "field" else {}))
    dataset["metainfo"] = {} if place == "field" else fields
    cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
    meta = dict(classes=["c"])
    names = read_class_names(cfg, dict(meta=dict(dataset_meta=meta)))
    assert names == dict(classes=["a cat", "a dog"])
