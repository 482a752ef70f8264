"""The data are looked at before a training, and faults stop it."""

import json

import pytest

pytest.importorskip("mmpretrain")

from data_sets import coco, listed
from mmengine.model import BaseModel
from torch import nn

from setformer_mm.hooks import DataCheckHook
from setformer_mm.utils.errors import UserError


class Classifier(BaseModel):
    """What the hook looks at of a model."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.head.num_classes = num_classes

    def forward(self, inputs, data_samples, mode="tensor"):
        raise AssertionError("the hook stops a run before its first step")


@pytest.fixture
def run(toy_runner, monkeypatch, tmp_path):
    """Start a training with the hook; return what is logged."""

    def run(dataset: dict, num_classes: int = 2, strict: bool = True) -> list[str]:
        loader = dict(batch_size=1, num_workers=0, dataset=dataset)
        sampler = dict(type="DefaultSampler", shuffle=False)
        runner = toy_runner("epochs", options={"custom_hooks": []})
        runner.model = Classifier(num_classes)
        loop = runner._train_loop
        runner._train_dataloader = dict(loader, sampler=sampler)
        assert isinstance(loop, dict)
        logged = []
        monkeypatch.setattr(runner.logger, "info", logged.append)
        monkeypatch.setattr(runner.logger, "warning", logged.append)
        runner.register_hook(DataCheckHook(strict))
        monkeypatch.setattr(runner, "load_or_resume", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.train()
        return logged

    return run


@pytest.fixture
def dataset(tmp_path) -> dict:
    lines = ["a.png 0", "b.png 1", "c.png 1"]
    return listed(tmp_path, lines, metainfo=dict(classes=("even", "odd")))


def test_a_table_and_no_more(run, dataset):
    (text,) = [line for line in run(dataset) if "The data:" in line]
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()[1:]}
    assert rows["all"].split("|")[2].strip() == "3"
    assert rows["odd"].split("|")[2].strip() == "2"


def test_all_faults_stop_the_run_at_once(run, dataset, tmp_path):
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError) as error:
        run(dataset, num_classes=1)
    assert "1 of 3 pictures do not exist" in str(error.value)
    assert "model.head.num_classes is 1 and train_dataloader.dataset has 2" in (
        str(error.value)
    )
    assert "\n" not in str(error.value)


def test_not_strict(run, dataset, tmp_path):
    (tmp_path / "b.png").unlink()
    logged = run(dataset, strict=False)
    assert any("1 of 3 pictures do not exist" in line for line in logged)


def test_wrapped_data_sets(run, dataset, tmp_path):
    (tmp_path / "b.png").unlink()
    inner = dict(type="ConcatDataset", datasets=[dataset])
    repeated = dict(type="RepeatDataset", times=2, dataset=inner)
    with pytest.raises(UserError, match=r"train_dataloader.dataset.dataset.datasets.0"):
        run(repeated)


def test_a_large_head_is_a_warning(run, dataset):
    assert any("num_classes is 80" in line for line in run(dataset, num_classes=80))


def test_a_detection_in_which_nothing_is_annotated(run, tmp_path):
    dataset = coco(tmp_path, ["cat"], ["cat"] * 2, metainfo=dict(classes=("cat",)))
    path = tmp_path / "boxes.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="nothing is annotated in train_dataloader"):
        run(dataset)
