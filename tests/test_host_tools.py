"""Tools of the host libraries, as they are installed, on our configs."""

import runpy
import sys
from pathlib import Path

import pytest
from data_sets import coco, folders, label_maps
from matplotlib import pyplot
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from setformer_mm import configs

LOAD = dict(type="LoadImageFromFile")


@pytest.fixture
def run_tool(monkeypatch, tmp_path):
    """Run a tool by its path in a library: ``run_tool("mmdet", "train.py", ...)``."""

    def run_tool(library: str, path: str, *arguments: object) -> None:
        folder = Path(pytest.importorskip(library).__file__).parent / ".mim" / "tools"
        for manager in (DefaultScope, MessageHub, MMLogger, Visualizer):
            manager._instance_dict.clear()
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(folder / path), run_name="__main__")

    yield run_tool
    pyplot.close("all")


def with_data(name: str, folder: Path, dataset: dict, split: str = "train") -> Path:
    """Write a shipped config with another data set."""
    cfg = Config.fromfile(configs.path(name))
    loader = cfg[f"{split}_dataloader"]
    loader.dataset = dataset
    loader.num_workers, loader.persistent_workers = 0, False
    path = folder / f"{name}_of_a_test.py"
    cfg.dump(path)
    return path


DATA_OF = {
    "mmpretrain": lambda root: folders(
        root, {"a": 1, "b": 1}, pipeline=[LOAD, dict(type="PackInputs")]
    ),
    "mmdet": lambda root: coco(
        root,
        ["a"],
        ["a", "a"],
        pipeline=[
            LOAD,
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="PackDetInputs"),
        ],
        metainfo=dict(classes=("a",), palette=[(0, 255, 0)]),
    ),
    "mmseg": lambda root: label_maps(
        root,
        [0, 1],
        pipeline=[LOAD, dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
        metainfo=dict(classes=("a", "b"), palette=[(0, 0, 0), (9, 9, 9)]),
    ),
}
NAMES = dict(
    mmpretrain="setformer_digits",
    mmdet="mask_rcnn_setformer_digits",
    mmseg="upernet_setformer_digits",
)


@pytest.mark.parametrize("library", DATA_OF)
def test_browse_dataset(library, run_tool, tmp_path):
    pytest.importorskip(library)
    config = with_data(NAMES[library], tmp_path, DATA_OF[library](tmp_path / "data"))
    place, flags = "analysis_tools", ("--output-dir", tmp_path / "out", "--not-show")
    if library == "mmpretrain":
        # Its other modes call matplotlib as versions before 3.7 had it.
        place, flags = "visualization", (*flags, "--mode", "original")
    run_tool(library, f"{place}/browse_dataset.py", config, *flags)
    assert len(list((tmp_path / "out").rglob("*.png"))) >= 1


@pytest.mark.parametrize(
    "name", ["setformer_digits", "setformer_t_in1k", "upernet_setformer_digits"]
)
def test_vis_scheduler(name, run_tool, tmp_path):
    """It trains a model of one parameter on a list, with the config's own hooks."""
    cfg = Config.fromfile(configs.path(name))
    by_epoch = "max_epochs" in cfg.train_cfg
    length = "max_epochs" if by_epoch else "max_iters"
    cfg.train_cfg[length] = 3
    cfg.dump(tmp_path / "short.py")
    run_tool(
        "mmpretrain",
        "visualization/vis_scheduler.py",
        tmp_path / "short.py",
        *("-d", 2 * cfg.train_dataloader.batch_size, "--not-show"),
        *("--save-path", tmp_path / "curve.png"),
    )
    assert (tmp_path / "curve.png").exists()


def test_get_flops_of_mmpretrain(run_tool, capsys):
    run_tool(
        "mmpretrain",
        "analysis_tools/get_flops.py",
        configs.path("setformer_digits"),
        *("--shape", 64),
    )
    assert "Flops: 20.184M\nParams: 1.169M\n" in capsys.readouterr().out


def test_get_flops_of_mmseg(run_tool, capsys):
    run_tool(
        "mmseg",
        "analysis_tools/get_flops.py",
        configs.path("upernet_setformer_digits"),
        *("--shape", 128),
    )
    assert "Flops: 0.126G\nParams: 1.348M\n" in capsys.readouterr().out


def test_get_flops_of_mmdet(run_tool, tmp_path, capsys):
    pytest.importorskip("mmdet")
    data = DATA_OF["mmdet"](tmp_path)
    data["pipeline"][-1]["meta_keys"] = ("ori_shape", "img_shape", "scale_factor")
    data["pipeline"].insert(1, dict(type="Resize", scale=(128, 128), keep_ratio=True))
    config = with_data("mask_rcnn_setformer_digits", tmp_path, data, "val")
    run_tool("mmdet", "analysis_tools/get_flops.py", config, "--num-images", 1)
    assert "Flops: 0.705G\nParams: 1.393M\n" in capsys.readouterr().out
