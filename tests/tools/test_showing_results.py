"""The tools that show or publish results."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from setformer_mm.utils.errors import UserError


def write_log(work_dir, run: str, records: list[dict]) -> None:
    folder = work_dir / run / "vis_data"
    folder.mkdir(parents=True)
    lines = "\n".join(json.dumps(record) for record in records)
    (folder / "scalars.json").write_text(lines + "\n")


def test_curves_of_a_resumed_run(tool, tmp_path, monkeypatch):
    """Validations get the iteration before them; repeated iterations count once."""
    first = [
        dict(loss=3.0, epoch=1, step=10),
        dict(loss=2.0, epoch=1, step=20),
        {"coco/bbox_mAP": 0.1, "step": 1},
        dict(loss=9.0, epoch=2, step=30),  # not in a checkpoint
    ]
    second = [
        dict(loss=1.0, epoch=2, step=30),
        dict(loss=0.5, epoch=2, step=40),
        {"coco/bbox_mAP": 0.2, "coco/segm_mAP": 0.1, "step": 2},
    ]
    write_log(tmp_path, "20250101_000000", first)
    write_log(tmp_path, "20250102_000000", second)
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.plot",
        lambda self, x, y, *args, **kwargs: drawn.append((list(x), list(y))),
    )
    with pytest.warns(UserWarning, match="[Ll]egend"):  # nothing was really drawn
        tool("plot_curves", tmp_path, tmp_path / "out" / "curve.png")
    assert ([10, 20, 30, 40], [3.0, 2.0, 1.0, 0.5]) in drawn
    assert ([20, 40], [0.1, 0.2]) in drawn
    assert ([40], [0.1]) in drawn


def test_curves_make_a_picture(tool, tmp_path):
    records = [dict(loss=1 / step, step=step) for step in range(1, 100)]
    write_log(tmp_path, "run", [*records, dict(mIoU=30.0, step=99)])
    tool("plot_curves", tmp_path, tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").size == (1050, 600)


def test_curves_of_nothing(tool, tmp_path):
    with pytest.raises(UserError, match="no training log"):
        tool("plot_curves", tmp_path, tmp_path / "curve.png")


@pytest.mark.parametrize(
    ("flags", "dtype"), [([], torch.float64), (["--dtype", "fp16"], torch.float16)]
)
def test_published_checkpoint(tool, tmp_path, capsys, flags, dtype):
    weights = dict(
        weight=torch.ones(100, dtype=torch.float64)[:3],
        count=torch.tensor(7),
    )
    meta = dict(
        epoch=3,
        cfg="model = dict()",
        dataset_meta=dict(classes=("a", "b"), palette=[(0, 1, 2)], other=object),
    )
    checkpoint = dict(
        meta=meta,
        state_dict=weights,
        ema_state_dict=weights,
        optimizer=dict(state={}),
        message_hub=dict(runtime_info={}),
    )
    del meta["dataset_meta"]["other"]
    torch.save(checkpoint, tmp_path / "source.pth")
    tool("publish_checkpoint", tmp_path / "source.pth", tmp_path / "target.pth", *flags)

    content = torch.load(tmp_path / "target.pth", weights_only=True)
    assert content.keys() == {"meta", "state_dict"}
    names = dict(classes=["a", "b"], palette=[[0, 1, 2]])
    config = "model = dict()"
    assert content["meta"] == dict(epoch=3, dataset_meta=names, cfg=config)
    assert content["state_dict"]["weight"].dtype == dtype
    assert (
        content["state_dict"]["weight"].untyped_storage().nbytes() == 3 * dtype.itemsize
    )
    assert content["state_dict"]["count"] == 7
    assert "sha256" in capsys.readouterr().out


@pytest.mark.parametrize("tool_name", ["publish_checkpoint", "convert_checkpoint"])
def test_a_checkpoint_is_not_written_over_itself(tool, tmp_path, tool_name):
    path = tmp_path / "epoch_1.pth"
    path.write_bytes(b"weeks of training")
    (tmp_path / "link.pth").symlink_to(path)
    flags = ["--config", "none.py"] if tool_name == "convert_checkpoint" else []
    for target in (path, tmp_path / "link.pth"):
        with pytest.raises(UserError, match="is read and would be written over"):
            tool(tool_name, path, target, *flags)
    assert path.read_bytes() == b"weeks of training"


@pytest.fixture
def segmentation_config(tmp_path):
    """Two pictures with label maps, in mmseg's layout."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(2):
        picture = np.full((8, 8, 3), 100, np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / f"{index}.png")
        labels = np.eye(8, dtype=np.uint8)
        Image.fromarray(labels).save(tmp_path / "labels" / f"{index}.png")
    config = tmp_path / "config.py"
    config.write_text(
        f"""
default_scope = "mmseg"
custom_imports = dict(imports=["mmseg.datasets"])
test_dataloader = dict(dataset=dict(
    type="BaseSegDataset", data_root={str(tmp_path)!r}, img_suffix=".png",
    data_prefix=dict(img_path="images", seg_map_path="labels"),
    metainfo=dict(classes=("ground", "line"), palette=[(0, 0, 0), (255, 0, 0)]),
    pipeline=[]))
"""
    )
    return config


def test_predictions_of_another_config(tool, segmentation_config, tmp_path):
    paths = [str(tmp_path / "images" / f"{index}.png") for index in range(2)]
    (tmp_path / "predictions.pkl").write_bytes(
        pickle.dumps([dict(img_path=path, pred_label=1) for path in paths])
    )
    with pytest.raises(
        UserError, match="0.png cannot be drawn .*pred_sem_seg.*name the"
    ):
        tool(
            "contact_sheet",
            segmentation_config,
            tmp_path / "predictions.pkl",
            tmp_path / "sheet.png",
        )


@pytest.mark.parametrize("name", ["plot_curves", "contact_sheet"])
def test_figures_in_unknown_formats(tool, segmentation_config, tmp_path, name):
    first = [tmp_path] if name == "plot_curves" else [segmentation_config, tmp_path]
    with pytest.raises(UserError, match="OUT must end in .*.eps, got .*curve.txt"):
        tool(name, *first, tmp_path / "curve.txt")


def test_contact_sheet(tool, segmentation_config, tmp_path):
    samples = [
        dict(
            img_path=str(tmp_path / "images" / f"{index}.png"),
            pred_sem_seg=dict(data=torch.ones(1, 8, 8, dtype=torch.int64)),
        )
        for index in range(2)
    ]
    (tmp_path / "predictions.pkl").write_bytes(pickle.dumps(samples))
    out = tmp_path / "out" / "sheet.png"
    tool("contact_sheet", segmentation_config, tmp_path / "predictions.pkl", out)
    pixels = np.asarray(Image.open(out).convert("RGB")).reshape(-1, 3)
    red = np.array([100 * 0.35 + 255 * 0.65, 100 * 0.35, 100 * 0.35]).astype(int)
    share = (abs(pixels.astype(int) - red).max(1) <= 2).mean()
    plain = (abs(pixels.astype(int) - 100).max(1) <= 2).mean()
    print(f"{share=} {plain=}")
    # An eighth of each truth is red, and all of each prediction.
    assert share / (share + plain) == pytest.approx((1 / 8 + 1) / 2, abs=0.03)
