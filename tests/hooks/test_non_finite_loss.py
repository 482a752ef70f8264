"""A training that diverges ends with a sentence that names what is still finite."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from setformer_mm.hooks import NonFiniteLossHook
from setformer_mm.hooks.non_finite_loss import divergence_explained
from setformer_mm.ops import NonFiniteError
from setformer_mm.utils.checkpoints import read_checkpoint
from setformer_mm.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def train(toy_runner, monkeypatch):
    """Train three iterations an epoch; ``bad`` are iterations whose loss is ``value``.

    The loss that is only logged so leaves the weights as they are.
    """

    def run(kind="epochs", bad=(), value=math.nan, only_logged=False, patience=3):
        runner = toy_runner(kind)
        runner.register_hook(NonFiniteLossHook(patience))
        parse = runner.model.parse_losses

        def parse_losses(losses):
            loss, logged = parse(losses)
            if runner.iter in bad:
                logged["loss"] = loss * value
                loss = loss if only_logged else logged["loss"]
            return loss, logged

        monkeypatch.setattr(runner.model, "parse_losses", parse_losses)
        runner.train()
        return runner

    return run


def checkpoints(folder) -> list[Path]:
    return sorted((folder / "run").glob("*.pth"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_the_loss_breaks_stop_at_once(train, value, tmp_path):
    with pytest.raises(UserError) as stop:
        train(bad=[7], value=value)
    sentence = str(stop.value)
    path = str(tmp_path / "run" / "epoch_2.pth")
    assert "\n" not in sentence
    assert sentence.startswith(
        "the training stops in iteration 8, at a learning rate of"
    )
    assert "hidden.weight is not finite any more" in sentence
    assert f"the last finite checkpoint is {path}: " in sentence
    assert [file.name for file in checkpoints(tmp_path)] == [
        "epoch_1.pth",
        "epoch_2.pth",
    ]
    assert all(read_checkpoint(str(file)) for file in checkpoints(tmp_path))


@pytest.mark.parametrize("kind", ["epochs", "iters"])
@pytest.mark.parametrize("patience", [1, 3])
def test_weights_that_stay_finite_have_patience(train, kind, patience):
    sentence = f"iteration {4 + patience}, .* nan for iteration {patience} in a row"
    with pytest.raises(UserError, match=sentence):
        train(kind, range(4, 12), only_logged=True, patience=patience)


def test_iterations_that_are_not_in_a_row(train):
    runner = train(bad=[1, 2, 4, 5, 7, 8, 10, 11], only_logged=True, patience=3)
    assert runner.iter == 12


def test_a_scaler_that_leaves_out_a_step(toy_runner, monkeypatch):
    """As in float16: the gradients overflow, the loss and the weights do not."""
    runner = toy_runner("epochs")
    runner.register_hook(NonFiniteLossHook(patience=1))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, backoff_factor=1e-30)
    optimizer, weights = runner.build_optim_wrapper(runner.optim_wrapper), []

    def update_params(loss):
        weights.append(runner.model.head.weight.detach().clone())
        optimizer.zero_grad()
        scaler.scale(1000 * loss).backward()
        assert runner.model.head.weight.grad.isfinite().all() == (len(weights) > 1)
        scaler.step(optimizer.optimizer)
        scaler.update()

    runner.optim_wrapper = optimizer
    monkeypatch.setattr(optimizer, "update_params", update_params)
    runner.train()
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


class Breaking(Hook):
    """A step that breaks the weights, while its loss is finite."""

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 5:  # the last of its epoch
            runner.model.head.bias.data[1] = math.inf


def test_weights_that_are_not_finite_are_not_saved(toy_runner, tmp_path):
    runner = toy_runner("epochs")
    runner.register_hook(NonFiniteLossHook())
    runner.register_hook(Breaking())
    with pytest.raises(
        UserError, match="head.bias holds NaN .* not saved; .*epoch_1.pth"
    ):
        runner.train()
    assert [file.name for file in checkpoints(tmp_path)] == ["epoch_1.pth"]


def test_attention_that_meets_nan_first(toy_runner):
    runner = toy_runner("epochs")
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    with pytest.raises(
        UserError, match="iteration 1, .* 0.01: anchors must be .* no che"
    ):
        with divergence_explained(runner):
            raise NonFiniteError("anchors", 3)
    with pytest.raises(ZeroDivisionError), divergence_explained(runner):
        raise ZeroDivisionError


def test_patience_is_positive():
    with pytest.raises(ValueError, match="patience must be positive, got 0"):
        NonFiniteLossHook(patience=0)


def test_every_config_has_the_hook():
    cfg = Config.fromfile(ROOT / "configs/_base_/default_runtime.py")
    assert cfg.default_hooks.non_finite_loss == dict(
        type="NonFiniteLossHook", patience=10
    )
