"""The tools on the embedded data, with a model of each of the three host libraries.

Beside OpenMMLab's own releases, too: `make test-upstream`.
"""

import math
from pathlib import Path

import pytest

pytest.importorskip("mmpretrain")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

import cv2

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import read_result
from toolkit.config_checks import class_weights_break

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--train-scenes 8 --val-scenes 4 --train-crops 20 --val-crops 10".split()
SMALL += "--train-relations 4 --val-relations 4".split()

EPOCHS = ["train_cfg.max_epochs=1", "param_scheduler.1.T_max=1"]
ITERATIONS = ["train_cfg.max_iters=2", "train_cfg.val_interval=2"]
ITERATIONS += ["default_hooks.checkpoint.interval=2"]
IN_THIS_PROCESS = [
    f"{loader}_dataloader.{setting}"
    for loader in ("train", "val", "test")
    for setting in ("num_workers=0", "persistent_workers=False", "batch_size=4")
]
UNWEIGHTED = [
    f"model.{head}.loss_decode.class_weight=None"
    for head in ("decode_head", "auxiliary_head")
]
# Of each config: how to shorten its training, and the metric of its task.
TASKS = dict(
    setformer_digits=(EPOCHS, "accuracy/top1"),
    mask_rcnn_setformer_digits=(ITERATIONS, "coco/segm_mAP"),
    upernet_setformer_digits=(ITERATIONS, "mIoU"),
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the paths that the configs name: their own, and small data."""
    import in_process

    folder = tmp_path_factory.mktemp("three_tasks")
    (folder / "configs").symlink_to(ROOT / "configs")
    tool = in_process.load_tool("prepare_mini_data")
    tool.main(["--out", str(folder / "data" / "digits"), *SMALL])
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_trains_tests_and_predicts(name, tool, workplace, monkeypatch, tmp_path):
    monkeypatch.chdir(workplace)
    shorter, metric = TASKS[name]
    config, run = f"configs/digits/{name}.py", tmp_path / "run"
    options = ["--cfg-options", *IN_THIS_PROCESS]
    if name.startswith("upernet") and class_weights_break():
        with pytest.raises(UserError, match="decode_head.loss_decode has a class_wei"):
            tool("train", config, "--work-dir", run, *options, *shorter)
        options += UNWEIGHTED
    tool("train", config, "--work-dir", run, *options, *shorter)
    trained = Path((run / "last_checkpoint").read_text())
    assert trained.parent == run

    tool("test", config, trained, "--work-dir", tmp_path / "test", *options)
    found = read_result(tmp_path / "test" / "test_result.json").metrics[metric]
    assert math.isfinite(found)
    assert found == read_result(run / "train_result.json").metrics[metric]

    pictures = workplace / "data" / "digits" / "scenes" / "val"
    flags = ["--config", config, "--checkpoint", trained, "--out-dir", tmp_path]
    tool("predict", pictures, *flags)
    drawn = sorted(path.name for path in (tmp_path / "vis").iterdir())
    assert drawn == sorted(path.name for path in pictures.iterdir())
    assert cv2.imread(str(tmp_path / "vis" / drawn[0])) is not None
