"""Where a stopped training goes on, and what its config had said."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.resuming import (
    checkpoint_folder,
    differences,
    find_checkpoint,
    last_checkpoint,
    recorded_settings,
    require_training_state,
)

ROOT = Path(__file__).resolve().parents[2]
STATE = dict(
    state_dict={},
    message_hub=dict(runtime_info={}),
    optimizer=dict(state={}, param_groups=[]),
    param_schedulers=[],
    meta=dict(epoch=1, iter=5, seed=3),
)


@pytest.fixture
def work_dir(tmp_path):
    """A run with three checkpoints, the best one, and no pointer."""
    for name in (
        "epoch_2.pth",
        "epoch_9.pth",
        "epoch_10.pth",
        "best_top1_epoch_30.pth",
    ):
        torch.save(STATE, tmp_path / name)
    torch.save(dict(state_dict={}), tmp_path / "epoch_11.pth")  # no training state
    return tmp_path


def test_the_pointer_counts(work_dir):
    (work_dir / "last_checkpoint").write_text(f"{work_dir}/epoch_2.pth\n")
    assert find_checkpoint(str(work_dir)) == (str(work_dir / "epoch_2.pth"), "")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "last_checkpoint does not exist"),
        (b"", "last_checkpoint is empty"),
        (b"\xff\xfe", "last_checkpoint names"),
        (b"/nowhere/epoch_12.pth", "names /nowhere/epoch_12.pth, which is not in"),
    ],
)
def test_without_a_pointer_the_newest_whole_one_counts(work_dir, content, problem):
    if content is not None:
        (work_dir / "last_checkpoint").write_bytes(content)
    path, sentence = find_checkpoint(str(work_dir))
    assert path == str(work_dir / "epoch_10.pth")
    assert problem in sentence and path in sentence
    damaged = work_dir / "epoch_10.pth"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert find_checkpoint(str(work_dir))[0] == str(work_dir / "epoch_9.pth")


def test_damaged_checkpoints_are_not_trained_over(work_dir):
    for path in work_dir.glob("epoch_*.pth"):
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match="none of .* be resumed: epoch_11.pth, epoch_10"
    ):
        find_checkpoint(str(work_dir))


def test_a_pointer_to_nothing(tmp_path):
    (tmp_path / "last_checkpoint").write_text("elsewhere/epoch_3.pth")
    with pytest.raises(UserError, match="--resume elsewhere/epoch_3.pth"):
        find_checkpoint(str(tmp_path))


def test_nothing_was_saved_yet(tmp_path):
    assert find_checkpoint(str(tmp_path)) == (None, "")
    assert find_checkpoint(str(tmp_path / "new")) == (None, "")


def test_a_copied_folder_is_one_of_its_own(work_dir, tmp_path_factory):
    original = tmp_path_factory.mktemp("original")
    torch.save(dict(message_hub={}), original / "epoch_2.pth")
    (work_dir / "last_checkpoint").write_text(str(original / "epoch_2.pth"))
    assert last_checkpoint(str(work_dir)) == str(work_dir / "epoch_2.pth")


def test_checkpoints_in_another_folder(work_dir):
    cfg = Config(dict(work_dir="runs/a/", default_hooks={}))
    assert checkpoint_folder(cfg) == "runs/a/"
    cfg.default_hooks = dict(checkpoint=dict(out_dir="/big/disk"))
    assert checkpoint_folder(cfg) == "/big/disk/a"
    path, _ = find_checkpoint("runs/a", str(work_dir))
    assert path == str(work_dir / "epoch_10.pth")


@pytest.mark.parametrize(
    "name", ["setformer_t_in1k", "mask_rcnn_setformer_t", "upernet_setformer_t"]
)
def test_settings_are_read_as_they_were_written(name):
    cfg = Config.fromfile(ROOT / "configs" / f"{name}.py")
    read = recorded_settings(cfg.pretty_text)
    assert read["train_cfg"] == cfg.train_cfg.to_dict()
    assert differences(read, recorded_settings(cfg.pretty_text)) == {}
    cfg.merge_from_dict(
        {"optim_wrapper.optimizer.lr": 7.0, "param_scheduler.1.end": 99}
    )
    changed = differences(read, recorded_settings(cfg.pretty_text))
    assert changed.keys() == {"optim_wrapper.optimizer.lr", "param_scheduler.1.end"}
    assert changed["optim_wrapper.optimizer.lr"][1] == 7.0


def test_settings_are_never_executed(tmp_path):
    canary = tmp_path / "canary"
    payload = f"open({str(canary)!r}, 'w')"
    text = (
        f"import os\nmodel = dict(a={payload}, b=[1, -2.0, None, mod.Name])\n{payload}"
    )
    read = recorded_settings(text)
    assert read == {"model": {"a": payload, "b": [1, -2.0, None, "mod.Name"]}}
    assert not canary.exists()
    with pytest.raises(ValueError, match="not the text of a config"):
        recorded_settings("<function at 0x1>")


def test_a_whole_state_of_a_training(tmp_path):
    path = str(tmp_path / "file.pth")
    torch.save(STATE, path)
    assert require_training_state(path) == STATE


@pytest.mark.parametrize("lacking", ["message_hub", "optimizer", "param_schedulers"])
def test_what_lacks_a_part_of_the_state_cannot_be_resumed(tmp_path, lacking):
    path = str(tmp_path / "file.pth")
    torch.save({k: v for k, v in STATE.items() if k != lacking}, path)
    with pytest.raises(UserError, match="holds .*no state of .* load_from=.*file"):
        require_training_state(path, has_schedule=True)


def test_a_training_without_schedule_needs_none_of_its_state(tmp_path):
    path = str(tmp_path / "file.pth")
    torch.save({k: v for k, v in STATE.items() if k != "param_schedulers"}, path)
    require_training_state(path)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("meta", None),
        ("meta.epoch", "3"),
        ("meta.iter", -1),
        ("meta.iter", None),
        ("meta.seed", 0.5),
        ("meta.seed", 2**32),
    ],
)
def test_what_is_not_of_its_form_is_named(tmp_path, part, value):
    path = str(tmp_path / "file.pth")
    name, _, inner = part.partition(".")
    torch.save({**STATE, name: {**STATE[name], inner: value} if inner else value}, path)
    with pytest.raises(UserError, match=f"cannot be resumed: its {part} is not"):
        require_training_state(path)
