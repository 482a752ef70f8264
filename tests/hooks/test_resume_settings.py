"""A resumed run follows the config in use, and nothing outside its folder."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from setformer_mm.hooks import ResumeSettingsHook
from setformer_mm.utils.errors import UserError

LENGTHS = dict(epochs="train_cfg.max_epochs", iters="train_cfg.max_iters")


class NoteRates(Hook):
    """Keep the learning rate of every iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        group = runner.optim_wrapper.optimizer.param_groups[0]
        runner.rates[runner.iter] = group["lr"]


@pytest.fixture
def train(toy_runner, monkeypatch):
    """Train with the hook; return the runner, its rates and its warnings."""

    def train(kind: str, work_dir: str, options: dict | None = None):
        runner = toy_runner(kind, work_dir, options)
        runner.register_hook(ResumeSettingsHook())
        runner.rates, runner.warnings = {}, []
        monkeypatch.setattr(runner.logger, "warning", runner.warnings.append)
        runner.register_hook(NoteRates())
        runner.train()
        return runner

    return train


def last_of(runner) -> dict:
    path = Path(runner.work_dir, "last_checkpoint").read_text()
    return torch.load(path, weights_only=False)  # written by this very test


@pytest.mark.parametrize("kind", ["epochs", "iters"])
def test_same_settings_say_and_change_nothing(train, kind):
    longer = {"epochs": 4, "iters": 12}[kind]
    expected = train(kind, "left_alone")
    train(kind, "run", {LENGTHS[kind]: longer})
    again = train(kind, "run", {"resume": True})
    assert again.warnings == []
    torch.testing.assert_close(
        again.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", ["epochs", "iters"])
def test_a_longer_run_with_the_old_schedule_is_refused(train, kind):
    train(kind, "run")
    length = {"epochs": 6, "iters": 18}[kind]
    with pytest.raises(UserError) as error:
        train(kind, "run", {"resume": True, LENGTHS[kind]: length})
    assert f"add param_scheduler.T_max={length} to --cfg-options" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_longer_run_may_have_been_no_longer_than_its_warm_up(train):
    warm_up = dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=1)
    decay = dict(type="CosineAnnealingLR", by_epoch=True, begin=1, end=4)
    options = {"param_scheduler": [warm_up, decay]}
    expected = train("epochs", "left_alone", options).rates
    train("epochs", "run", {**options, LENGTHS["epochs"]: 1})
    resumed = train("epochs", "run", {"resume": True, **options}).rates
    assert resumed == {i: rate for i, rate in expected.items() if i in resumed}
    assert len(resumed) == 9


@pytest.mark.parametrize("kind", ["epochs", "iters"])
def test_a_longer_schedule_is_followed_from_where_the_run_is(train, kind):
    long = {"epochs": 6, "iters": 18}[kind]
    options = {LENGTHS[kind]: long, "param_scheduler.T_max": long}
    expected = train(kind, "left_alone", options).rates
    train(kind, "run")
    resumed = train(kind, "run", {"resume": True, **options})
    assert min(resumed.rates) == 12 and max(resumed.rates) == 17
    for iteration, rate in resumed.rates.items():
        assert rate == pytest.approx(expected[iteration], rel=1e-12), iteration
    assert any("T_max: " in text and " -> " in text for text in resumed.warnings)


@pytest.mark.parametrize("kind", ["epochs", "iters"])
def test_another_learning_rate_and_weight_decay_take_effect(train, kind):
    half = {"epochs": 2, "iters": 6}[kind]
    changed = {
        "optim_wrapper.optimizer.lr": 0.5,
        "optim_wrapper.optimizer.weight_decay": 0.25,
    }
    expected = train(kind, "left_alone", changed).rates
    interrupted = {LENGTHS[kind]: half}
    train(kind, "run", interrupted)
    resumed = train(kind, "run", {"resume": True, **changed})
    for iteration, rate in resumed.rates.items():
        assert rate == pytest.approx(expected[iteration], rel=1e-12), iteration
    group = resumed.optim_wrapper.optimizer.param_groups[0]
    assert group["weight_decay"] == 0.25
    assert any("optimizer.lr: 0.01 -> 0.5" in text for text in resumed.warnings)
    # Moments are kept: as many steps as a run left alone.
    state = resumed.optim_wrapper.optimizer.state
    assert {int(s["step"]) for s in state.values()} == {12}


def test_another_batch_size_counts_iterations_in_its_epochs(train):
    options = {"train_dataloader.batch_size": 2}
    expected = train("epochs", "left_alone", options)
    train("epochs", "run", {"train_cfg.max_epochs": 2})
    resumed = train("epochs", "run", {"resume": True, **options})
    assert (resumed.epoch, resumed.iter) == (4, expected.iter) == (4, 24)
    assert min(resumed.rates) == 12
    for iteration, rate in resumed.rates.items():
        assert rate == pytest.approx(expected.rates[iteration], rel=1e-12)
    assert any("batch_size: 4 -> 2" in text for text in resumed.warnings)
    assert any("--auto-scale-lr" in text for text in resumed.warnings)


def test_another_number_of_processes_is_said(train):
    runner = train("epochs", "run", {"train_cfg.max_epochs": 2})
    checkpoint = last_of(runner)
    assert checkpoint["message_hub"]["runtime_info"]["world_size"] == 1
    checkpoint["message_hub"]["runtime_info"]["world_size"] = 8
    torch.save(checkpoint, Path(runner.work_dir, "epoch_2.pth"))
    resumed = train("epochs", "run", {"resume": True})
    assert any("world_size: 8 -> 1" in text for text in resumed.warnings)


@pytest.mark.parametrize(("kind", "is_taken"), [("SGD", False), ("Adam", True)])
def test_the_state_of_another_kind_of_optimiser(train, kind, is_taken):
    """Moments are those of Adam and AdamW, and of no other."""
    options = {"optim_wrapper.optimizer": dict(type=kind, lr=0.1)}
    train("epochs", "run", {"optim_wrapper.optimizer": dict(type="AdamW", lr=0.1)})
    if is_taken:
        train("epochs", "run", {"resume": True, **options})
        return
    with pytest.raises(UserError, match="the optimiser is SGD and was AdamW"):
        train("epochs", "run", {"resume": True, **options})


def test_groups_of_unknown_settings_are_compared(train):
    runner = train("epochs", "run")
    checkpoint = last_of(runner)
    del checkpoint["meta"]["cfg"]
    torch.save(checkpoint, Path(runner.work_dir, "epoch_2.pth"))
    paramwise = {"optim_wrapper.paramwise_cfg": dict(bias_lr_mult=2.0)}
    with pytest.raises(UserError, match="4 groups .* in the checkpoint 1"):
        train("epochs", "run", {"resume": True, **paramwise})


def test_other_groups_of_parameters_are_refused(train):
    train("epochs", "run")
    paramwise = {"optim_wrapper.paramwise_cfg": dict(bias_lr_mult=2.0)}
    with pytest.raises(UserError, match="4 groups .* in the checkpoint 1"):
        train("epochs", "run", {"resume": True, **paramwise})


def test_a_schedule_that_follows_validations_is_refused(train):
    def plateau() -> dict:  # a config takes it apart
        kind = dict(type="ReduceOnPlateauLR", monitor="accuracy", rule="greater")
        return {"param_scheduler": dict(kind, _delete_=True)}

    train("epochs", "run", plateau())
    resume = {"resume": True, **plateau()}
    with pytest.raises(UserError, match="ReduceOnPlateauLR follows the validations"):
        train("epochs", "run", {**resume, "optim_wrapper.optimizer.lr": 0.5})


def test_a_config_inside_of_a_checkpoint_is_not_executed(train, tmp_path):
    runner = train("epochs", "run")
    checkpoint = last_of(runner)
    canary = tmp_path / "canary"
    checkpoint["meta"]["config"] = f"a = open({str(canary)!r}, 'w')"
    torch.save(checkpoint, Path(runner.work_dir, "epoch_4.pth"))
    with pytest.raises(UserError, match="never executed"):
        train("epochs", "run", {"resume": True})
    assert not canary.exists()


def test_a_missing_pointer_does_not_start_over(train):
    runner = train("epochs", "run", {"train_cfg.max_epochs": 2})
    Path(runner.work_dir, "last_checkpoint").unlink()
    resumed = train("epochs", "run", {"resume": True})
    assert min(resumed.rates) == 6
    assert any("epoch_2.pth" in text for text in resumed.warnings)


@pytest.mark.parametrize("keep", ["copied", "moved"])
def test_a_copied_or_moved_folder_is_one_of_its_own(train, tmp_path, keep):
    options = {"default_hooks.checkpoint.save_best": "accuracy"}
    original = Path(train("epochs", "run", options).work_dir)
    before = {path.name: path.read_bytes() for path in original.glob("*.pth")}
    (best,) = original.glob("best_*.pth")
    copy = tmp_path / "copy"
    if keep == "copied":
        shutil.copytree(original, copy)
        # What is read must be the copy's.
        (original / "epoch_4.pth").write_bytes(b"damaged")
        del before["epoch_4.pth"]
    else:
        original.rename(copy)
    # Every validation is better than that of the checkpoint.
    path = copy / "epoch_4.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["message_hub"]["runtime_info"]["best_score"] = -1.0
    torch.save(checkpoint, path)

    longer = {"train_cfg.max_epochs": 5, "param_scheduler.T_max": 5}
    runner = train("epochs", "copy", {"resume": True, **options, **longer})
    known = runner.message_hub.runtime_info
    assert Path(known["best_ckpt"]).parent == copy == Path(known["last_ckpt"]).parent
    assert [p.name for p in copy.glob("best_*")] == ["best_accuracy_epoch_5.pth"]
    if keep == "copied":
        assert best.exists()
        assert {n: (original / n).read_bytes() for n in before} == before
    else:
        assert not original.exists()
