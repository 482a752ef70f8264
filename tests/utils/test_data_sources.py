"""Class names of a config that are not those of its data."""

import json
from pathlib import Path

import pytest

pytest.importorskip("mmpretrain")
pytest.importorskip("mmdet")

from data_sets import coco, folders, listed
from mmengine.config import Config
from mmengine.registry import DATASETS

from setformer_mm.utils.data_sources import (
    _read_categories,
    class_warnings,
    require_known_classes,
)
from setformer_mm.utils.errors import UserError


def config(**datasets: dict) -> Config:
    return Config(
        {f"{split}_dataloader": dict(dataset=d) for split, d in datasets.items()}
    )


def check(**datasets: dict) -> None:
    require_known_classes(config(**datasets), tuple(datasets))


def warnings(dataset: dict) -> list[str]:
    return [*class_warnings({"train_dataloader.dataset": DATASETS.build(dataset)})]


def metainfo(*classes: str) -> dict:
    return dict(metainfo=dict(classes=classes))


def test_a_misspelt_class_is_named(tmp_path):
    right = coco(tmp_path, ["cat", "dog"], ["cat", "dog"], **metainfo("cat", "dog"))
    check(train=right)
    assert warnings(right) == []
    wrong = dict(right, **metainfo("cat", "dgo"))
    repeated = dict(type="RepeatDataset", times=2, dataset=wrong)
    with pytest.raises(UserError) as error:
        check(train=repeated)
    sentence = str(error.value)
    assert "train_dataloader.dataset.dataset.metainfo.classes has 'dgo'" in sentence
    assert f"{tmp_path}/boxes.json (did you mean 'dog'?)" in sentence


def test_faults_may_be_wanted(tmp_path):
    dataset = coco(tmp_path, ["cat"], ["cat"], **metainfo("cow"))
    cfg = config(train=dataset)
    cfg.custom_hooks = [dict(type="ExactResumeHook"), dict(type="DataCheckHook")]
    with pytest.raises(UserError, match="has 'cow'"):
        require_known_classes(cfg, ("train",))
    cfg.custom_hooks[1].strict = False
    require_known_classes(cfg, ("train",))


def test_coco_classes_on_other_data(tmp_path):
    with pytest.raises(UserError, match="has 'person', which is none of the 1 cat"):
        check(train=coco(tmp_path, ["cat"], ["cat"]))


def test_boxes_of_a_class_that_the_config_lacks(tmp_path):
    dataset = coco(tmp_path, ["cat", "cow", "dog"], ["cat"], **metainfo("cat", "dog"))
    check(train=dataset)
    (sentence,) = warnings(dataset)
    assert "annotates 'cow', which train_dataloader.dataset.metainfo" in sentence


def test_another_order_of_classes(tmp_path):
    dataset = coco(tmp_path, ["cat", "dog"], ["cat"], **metainfo("dog", "cat"))
    (sentence,) = warnings(dataset)
    assert "another order" in sentence and "the order is 'cat', 'dog'" in sentence
    # It does decide: the first category is label 0, whatever the names say.
    box = DATASETS.build(dataset).get_data_info(0)["instances"][0]
    assert box["bbox_label"] == 0


@pytest.mark.parametrize("content", ["", "{", '{"categories": [{"id": 1, "name"'])
def test_annotations_that_are_no_json(tmp_path, content):
    dataset = coco(tmp_path, ["cat"], ["cat"], **metainfo("cat"))
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(UserError, match="boxes.json .* is not JSON"):
        check(train=dataset)


def test_categories_are_found_anywhere_in_the_file(tmp_path):
    categories = [dict(id=i, name=f"klass {i} ä") for i in range(9000)]
    path = tmp_path / "a.json"
    for content in (
        dict(categories=categories, images=[dict(file_name="x" * 100)] * 3000),
        dict(images=[dict(file_name="x" * 100)] * 3000, categories=categories),
        dict(categories=categories, info={"categories": "a text"}),
        dict(info=dict(text='"categories": []'), categories=categories),
    ):
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        assert _read_categories(str(path)) == categories
    path.write_text("[1, 2]")
    assert _read_categories(str(path)) == []


def test_a_class_folder_that_is_missing(tmp_path):
    train = folders(tmp_path / "train", dict(a=1, b=1, c=1))
    val = folders(tmp_path / "val", dict(a=1, c=1))
    check(train=train, val=folders(tmp_path / "other", dict(a=1, b=0, c=1)))
    with pytest.raises(UserError) as error:
        check(train=train, val=val)
    assert f"{tmp_path}/val has no class folder 'b'" in str(error.value)
    assert "(val_dataloader.dataset.data_prefix)" in str(error.value)
    with pytest.raises(UserError, match="2 class folders for 3 classes .* 'b'"):
        check(val=dict(val, **metainfo("a", "b", "c")))


def test_a_hidden_folder_is_a_class(tmp_path):
    dataset = folders(tmp_path, {"a": 1, "b": 1, ".ipynb_checkpoints": 0})
    with pytest.raises(UserError, match=".ipynb_checkpoints counts as a class"):
        check(train=dataset)
    built = DATASETS.build(dataset)
    assert ".ipynb_checkpoints" in built.CLASSES  # so it does


def test_names_in_another_order_than_folders(tmp_path):
    dataset = folders(tmp_path, dict(cat=1, dog=1), **metainfo("dog", "cat"))
    check(train=dataset)
    (sentence,) = warnings(dataset)
    assert "has 'dog' where the folders, sorted, have 'cat'" in sentence
    # ImageNet's names are others than its folders'.
    assert warnings(dict(dataset, **metainfo("tabby", "beagle"))) == []


def test_files_of_another_suffix(tmp_path):
    dataset = folders(tmp_path, dict(cat=1, dog=1))
    assert warnings(dataset) == []
    Path(tmp_path, "dog", "more.webp").write_bytes(b"")
    (sentence,) = warnings(dataset)
    assert "leaves out 1 files" in sentence and "dog/more.webp" in sentence


def test_data_sets_of_other_kinds_are_left_alone(tmp_path):
    check(
        train=listed(tmp_path, ["a.png 0"]),
        val=dict(type="Nothing"),
        test=dict(type="mmpretrain.CustomDataset", no_such_field=1),
    )
