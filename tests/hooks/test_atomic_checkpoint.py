"""At no moment is a run without a complete checkpoint."""

import os
from pathlib import Path

import pytest
import torch

from setformer_mm.hooks import AtomicCheckpointHook
from setformer_mm.hooks import atomic_checkpoint as module
from setformer_mm.utils.files import PARTIAL_NAME, write_atomically


class Killed(BaseException):
    """Passes every ``except Exception``, as a kill does."""


def names(work_dir: str) -> list[str]:
    return sorted(path.name for path in Path(work_dir).glob("*.pth*"))


def pointed_to(work_dir: str) -> str:
    path = Path(work_dir, "last_checkpoint").read_text()
    torch.load(path, weights_only=False)  # it is complete
    return Path(path).name


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("epochs", ["epoch_3.pth", "epoch_4.pth"]),
        ("iters", ["iter_12.pth", "iter_9.pth"]),
    ],
)
@pytest.mark.parametrize("max_keep_ckpts", [1, 2])
def test_the_last_two_checkpoints_stay(toy_runner, kind, kept, max_keep_ckpts):
    options = {"default_hooks.checkpoint.max_keep_ckpts": max_keep_ckpts}
    runner = toy_runner(kind, options=options)
    runner.train()
    assert names(runner.work_dir) == kept
    assert (
        pointed_to(runner.work_dir) == ("epoch_4.pth", "iter_12.pth")[kind == "iters"]
    )


def test_all_checkpoints_stay_by_default(toy_runner):
    runner = toy_runner(
        "epochs", options={"default_hooks.checkpoint.max_keep_ckpts": -1}
    )
    runner.train()
    assert names(runner.work_dir) == [f"epoch_{i}.pth" for i in range(1, 5)]


@pytest.mark.parametrize("moment", ["open", "fsync", "replace"])
def test_killed_while_writing_keeps_the_old_one(toy_runner, monkeypatch, moment):
    """Die at the third checkpoint: before, during and after its bytes are written."""
    runner = toy_runner("epochs")
    original = dict(open=open, fsync=os.fsync, replace=os.replace)[moment]
    target = "epoch_3.pth"

    def die(*args, **kwargs):
        if moment == "fsync":
            name = os.readlink(f"/proc/self/fd/{args[0]}")
        else:
            name = str(args[0])
        if target in name:
            raise Killed
        return original(*args, **kwargs)

    if moment == "open":
        monkeypatch.setattr("setformer_mm.utils.files.open", die, raising=False)
    else:
        monkeypatch.setattr(os, moment, die)
    with pytest.raises(Killed):
        runner.train()
    assert names(runner.work_dir) == ["epoch_1.pth", "epoch_2.pth"]
    assert pointed_to(runner.work_dir) == "epoch_2.pth"

    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "toy"))
    resumed = toy_runner("epochs", options=dict(resume=True))
    resumed.train()
    assert names(resumed.work_dir) == ["epoch_3.pth", "epoch_4.pth"]


def test_unfinished_files_of_others_stay(toy_runner, tmp_path):
    runner = toy_runner("epochs")
    work_dir = Path(runner.work_dir)
    work_dir.mkdir(exist_ok=True)
    ours = work_dir / PARTIAL_NAME.format(name="epoch_1.pth", token="0" * 16)
    foreign = work_dir / "film.mkv.partial"
    ours.touch(), foreign.touch()
    runner.train()
    assert foreign.exists() and not ours.exists()


def test_pointer_moves_after_the_checkpoint_and_before_the_deletion(
    toy_runner, monkeypatch
):
    events = []
    replace, remove = os.replace, os.remove

    def note_replace(source, target):
        events.append(("write", Path(target).name))
        replace(source, target)

    def note_remove(path, *args, **kwargs):
        events.append(("delete", Path(path).name))
        remove(path, *args, **kwargs)

    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(os, "remove", note_remove)
    toy_runner("epochs").train()
    events = [event for event in events if event[1].startswith(("epoch", "last"))]
    assert events[4:7] == [
        ("write", "epoch_3.pth"),
        ("write", "last_checkpoint"),
        ("delete", "epoch_1.pth"),
    ]


def test_run_killed_before_the_deletion_does_it_on_resuming(toy_runner, monkeypatch):
    def die(self, path):
        raise Killed

    runner = toy_runner("epochs")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(AtomicCheckpointHook, "_remove", die)
        runner.train()
    assert names(runner.work_dir) == [f"epoch_{i}.pth" for i in (1, 2, 3)]
    resumed = toy_runner("epochs", options=dict(resume=True))
    resumed.train()
    assert names(resumed.work_dir) == ["epoch_3.pth", "epoch_4.pth"]


SAVE_BEST = {
    "default_hooks.checkpoint.save_best": "score",
    "default_hooks.checkpoint.rule": "greater",
}


def improve(monkeypatch, scores: list[float]) -> None:
    """Replace the results of the validations."""
    remaining = iter(scores)
    monkeypatch.setattr(
        "toy_job.ToyAccuracy.compute_metrics", lambda *args: dict(score=next(remaining))
    )


def test_best_checkpoint_is_replaced_only_by_a_better_one(toy_runner, monkeypatch):
    runner = toy_runner("epochs", options=SAVE_BEST)
    improve(monkeypatch, [0.1, 0.3, 0.2, 0.3])
    runner.train()
    best = [name for name in names(runner.work_dir) if name.startswith("best")]
    assert best == ["best_score_epoch_2.pth"]


def test_better_result_at_the_same_epoch_keeps_its_file(toy_runner, monkeypatch):
    """Old and new best have one name, and only the old one must go."""
    runner = toy_runner("epochs", options=SAVE_BEST)
    improve(monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.5])
    runner.train()
    runner.val_loop.run()
    assert "best_score_epoch_4.pth" in names(runner.work_dir)


def test_killed_while_writing_the_best_keeps_the_old_best(toy_runner, monkeypatch):
    runner = toy_runner("epochs", options=SAVE_BEST)
    improve(monkeypatch, [0.1, 0.2, 0.3, 0.4])

    def die(path, content):
        if Path(path).name == "best_score_epoch_3.pth":
            raise Killed
        write_atomically(path, content)

    monkeypatch.setattr(module, "write_atomically", die)
    with pytest.raises(Killed):
        runner.train()
    best = [name for name in names(runner.work_dir) if name.startswith("best")]
    assert best == ["best_score_epoch_2.pth"]


@pytest.mark.parametrize(
    "named", ["x/..", "x/notes.txt", ".", "", 5, "s3://bucket/best_score_epoch_1.pth"]
)
def test_a_checkpoint_cannot_name_what_is_deleted(toy_runner, monkeypatch, named):
    """What a resumed run is told of its best checkpoint may come from anywhere."""
    runner = toy_runner("epochs", options=SAVE_BEST)
    notes = Path(runner.work_dir, "notes.txt")
    notes.write_text("mine")
    told = dict(best_ckpt=named, best_score=-1.0, keep_ckpt_ids=["../notes"])
    for key, value in told.items():
        runner.message_hub.runtime_info[key] = value
    improve(monkeypatch, [0.1, 0.3, 0.2, 0.3])
    runner.train()
    assert notes.read_text() == "mine"
    best = [name for name in names(runner.work_dir) if name.startswith("best")]
    assert best == ["best_score_epoch_2.pth"]


def test_several_best_metrics(toy_runner, monkeypatch):
    options = {**SAVE_BEST, "default_hooks.checkpoint.save_best": ["up", "down"]}
    runner = toy_runner("epochs", options=options)
    scores = iter([1, 2, 3, 4])
    monkeypatch.setattr(
        "toy_job.ToyAccuracy.compute_metrics",
        lambda *args: dict(up=(score := next(scores)), down=-score),
    )
    runner.train()
    best = [name for name in names(runner.work_dir) if name.startswith("best")]
    assert best == ["best_down_epoch_1.pth", "best_up_epoch_4.pth"]


def test_out_dir(toy_runner, tmp_path):
    options = {"default_hooks.checkpoint.out_dir": str(tmp_path / "elsewhere")}
    runner = toy_runner("epochs", options=options)
    runner.train()
    assert names(tmp_path / "elsewhere" / "run") == ["epoch_3.pth", "epoch_4.pth"]
    assert pointed_to(runner.work_dir) == "epoch_4.pth"


@pytest.mark.parametrize("wrong", [dict(widht=1), dict(interval=None)])
def test_arguments_are_looked_at_before_the_first_checkpoint(wrong):
    (name,) = wrong
    with pytest.raises(TypeError, match=name):
        AtomicCheckpointHook(**wrong)
    AtomicCheckpointHook(by_epoch=False, interval=3, backend_args=None)
