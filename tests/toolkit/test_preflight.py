"""What a run will miss is named before it starts."""

import pytest
import torch
from mmengine.config import Config

from setformer_mm.utils.errors import UserError
from toolkit.preflight import require_data, require_pretrained_weights


@pytest.fixture
def dataset(tmp_path) -> dict:
    """A complete COCO-style data set."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.json").write_text("{}")
    return dict(
        type="CocoDataset",
        data_root=str(tmp_path),
        ann_file="labels.json",
        data_prefix=dict(img="images/"),
    )


def config(dataset: dict, **fields) -> Config:
    return Config(dict(train_dataloader=dict(dataset=dataset), **fields))


WRAPPERS = {
    "plain": lambda dataset: dataset,
    "repeat": lambda dataset: dict(type="RepeatDataset", times=2, dataset=dataset),
    "concat": lambda dataset: dict(
        type="ConcatDataset", datasets=[dict(type="Empty"), dataset]
    ),
    "both": lambda dataset: dict(
        type="ClassBalancedDataset",
        dataset=dict(type="ConcatDataset", datasets=[dict(type="Empty"), dataset]),
    ),
}
KEYS = {
    "plain": "dataset.data_root",
    "repeat": "dataset.dataset.data_root",
    "concat": "dataset.datasets.1.data_root",
    "both": "dataset.dataset.datasets.1.data_root",
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    ("field", "value", "missing"),
    [
        ("data_root", "/nowhere/coco", "/nowhere/coco"),
        ("ann_file", "other.json", "other.json"),
        ("data_prefix", dict(img="images/", seg="masks/"), "masks/"),
        ("data_prefix", "pictures", "pictures"),
    ],
)
def test_missing_data_are_named(dataset, wrapper, field, value, missing):
    require_data(config(WRAPPERS[wrapper](dataset)), ("train", "val"))
    dataset[field] = value
    with pytest.raises(UserError) as error:
        require_data(config(WRAPPERS[wrapper](dataset)), ("train",))
    assert f"{missing} does not exist" in str(error.value)
    assert f"train_dataloader.{KEYS[wrapper]}=PATH" in str(error.value)
    assert "\n" not in str(error.value)


def test_only_the_splits_in_use_are_checked(dataset):
    broken = dict(dataset, data_root="/nowhere")
    cfg = config(dataset, test_dataloader=dict(dataset=broken), val_dataloader=None)
    require_data(cfg, ("train", "val"))
    with pytest.raises(UserError, match="the test data"):
        require_data(cfg, ("test",))


def test_annotation_file_of_the_evaluator(dataset):
    evaluators = [dict(type="Accuracy"), dict(type="CocoMetric", ann_file="/no.json")]
    rule = "/no.json does not exist.* train_evaluator.1.ann_file=PATH"
    with pytest.raises(UserError, match=rule):
        require_data(config(dataset, train_evaluator=evaluators), ("train",))


def test_all_fields_that_name_a_missing_folder_are_told_at_once(dataset):
    """Though the folder itself is named once."""
    dataset = dict(dataset, data_root="/nowhere/coco/")
    cfg = config(
        dataset,
        val_dataloader=dict(dataset=dataset),
        val_evaluator=dict(type="CocoMetric", ann_file="/nowhere/coco/labels.json"),
    )
    with pytest.raises(UserError) as error:
        require_data(cfg, ("train", "val"))
    assert str(error.value).count("nowhere") == 1
    fields = (
        "train_dataloader.dataset.data_root=PATH "
        "val_dataloader.dataset.data_root=PATH val_evaluator.ann_file=PATH"
    )
    assert str(error.value).endswith(f" or set {fields} in the config")
    with pytest.raises(UserError, match=f" or pass --cfg-options {fields}$"):
        require_data(cfg, ("train", "val"), has_options=True)


def test_remote_data_are_not_looked_for(dataset):
    dataset.update(data_root="s3://bucket/coco", ann_file="s3://bucket/a.json")
    dataset["data_prefix"] = dict(img="images/")
    require_data(config(dataset), ("train",))


def test_digits_are_made_by_a_command(dataset):
    dataset["data_root"] = "/nowhere/data/digits"
    with pytest.raises(UserError, match="run `python tools/prepare_mini_data.py`"):
        require_data(config(dataset), ("train",))


def model_with(checkpoint, prefix=None) -> Config:
    init_cfg = dict(type="Pretrained", checkpoint=str(checkpoint), prefix=prefix)
    return Config(dict(model=dict(backbone=dict(init_cfg=init_cfg))))


def test_missing_pretrained_weights(tmp_path):
    with pytest.raises(UserError, match="model.backbone.init_cfg=None"):
        require_pretrained_weights(model_with(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="^the checkpoint http.* cannot be read: "):
        require_pretrained_weights(model_with("http://127.0.0.1:9/weights.pth"))


def test_prefix_of_pretrained_weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(dict(state_dict={"backbone.weight": torch.zeros(1)}), path)
    require_pretrained_weights(model_with(path, "backbone."))
    with pytest.raises(UserError, match="no parameter named encoder"):
        require_pretrained_weights(model_with(path, "encoder."))
