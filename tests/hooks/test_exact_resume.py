"""A resumed run draws the random numbers of an uninterrupted one."""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from setformer_mm.hooks import ExactResumeHook
from setformer_mm.utils.checkpoints import read_checkpoint

KINDS = ["epochs", "iters"]


class Interruption(Exception):
    pass


class InterruptHook(Hook):
    """Stop the run at an iteration, as a killed process would."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.iteration:
            raise Interruption


def interrupt_and_resume(toy_runner, kind, iteration, options=None):
    runner = toy_runner(kind, "interrupted", options)
    runner.register_hook(InterruptHook(iteration))
    with pytest.raises(Interruption):
        runner.train()
    resumed = toy_runner(kind, "interrupted", {**(options or {}), "resume": True})
    return resumed.train().state_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iteration", [3, 4, 8, 11])
def test_resumed_run_equals_uninterrupted_run(toy_runner, kind, iteration):
    expected = toy_runner(kind, "left_alone").train().state_dict()
    actual = interrupt_and_resume(toy_runner, kind, iteration)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iteration", [4, 8])
def test_accumulated_gradients_are_resumed(toy_runner, kind, iteration):
    """A checkpoint after every 3rd iteration, a step after every 2nd."""
    options = {"optim_wrapper.accumulative_counts": 2}
    expected = toy_runner(kind, "left_alone", options).train().state_dict()
    actual = interrupt_and_resume(toy_runner, kind, iteration, options)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_gradients_are_left_out_once_they_are_applied(toy_runner):
    options = {"optim_wrapper.accumulative_counts": 3}
    runner = toy_runner("iters", "run", options)
    runner.train()
    checkpoint = read_checkpoint(f"{runner.work_dir}/iter_12.pth")
    assert "accumulated_gradients" not in checkpoint


@pytest.mark.parametrize("kind", KINDS)
def test_stock_hooks_do_not_resume_exactly(toy_runner, kind):
    """The toy job can fail: without the hook, the two runs differ."""
    options = dict(custom_hooks=[])
    expected = toy_runner(kind, "left_alone", options).train().state_dict()
    actual = interrupt_and_resume(toy_runner, kind, 8, options)
    assert not torch.equal(actual["head.weight"], expected["head.weight"])


def test_resume_before_a_skipped_validation(toy_runner):
    """The run stops between a checkpoint and the validation that follows it."""
    options = {"train_cfg.val_interval": 3}
    expected = toy_runner("iters", "left_alone", options).train().state_dict()

    class InterruptValidation(Hook):
        def before_val(self, runner):
            if runner.iter == 6:
                raise Interruption

    runner = toy_runner("iters", "interrupted", options)
    runner.register_hook(InterruptValidation())
    with pytest.raises(Interruption):
        runner.train()
    resumed = toy_runner("iters", "interrupted", {**options, "resume": True})
    actual = resumed.train().state_dict()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_resume_with_a_finite_sampler_in_an_iteration_loop(toy_runner, monkeypatch):
    """Such a sampler starts again and again, and is skipped index by index."""
    monkeypatch.setattr("mmengine.runner.loops.time.sleep", lambda seconds: None)
    options = {"train_dataloader.sampler.type": "DefaultSampler"}
    expected = toy_runner("iters", "left_alone", options).train().state_dict()
    actual = interrupt_and_resume(toy_runner, "iters", 8, options)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_seed_drawn_by_mmengine_is_taken_from_the_checkpoint(toy_runner, kind):
    """Without a seed in the config, the order of the samples must be resumed too."""
    options = {"randomness.seed": None}
    actual = interrupt_and_resume(toy_runner, kind, 8, options)
    path = toy_runner(kind, "interrupted").work_dir + "/last_checkpoint"
    with open(path) as file:
        seed = torch.load(file.read(), weights_only=False)["meta"]["seed"]
    print(f"seed {seed}")
    options = {"randomness.seed": seed}
    expected = toy_runner(kind, "left_alone", options).train().state_dict()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_seeds_differ_between_ranks_steps_and_runs():
    def draw(seed: int, rank: int, step: int) -> tuple:
        hook = ExactResumeHook()
        hook.seed, hook.rank = seed, rank
        hook._seed_everything(step)
        return random.random(), np.random.rand(), torch.rand(()).item()

    cases = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = [draw(*case) for case in cases]
    assert draws == [draw(*case) for case in cases]
    assert len({number for numbers in draws for number in numbers}) == 12


def test_batches_that_are_loaded_to_be_skipped_leave_no_trace():
    """OpenMMLab's own mmengine loads them, with random numbers for each."""
    hook = ExactResumeHook()
    hook.seed, hook.rank = 1, 0
    batches = hook._seeded_after(iter(random.random, None), 3)
    *_, first = (next(batches) for _ in range(4))
    hook._seed_everything(3)
    assert first == random.random()
