"""Random numbers that depend on where a run is, not on how it got there."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dist import all_reduce, broadcast_object_list, get_rank
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

GRADIENTS = "accumulated_gradients"  # their place in a checkpoint


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Make a resumed run equal, bit for bit, to one that was never interrupted.

    mmengine's checkpoints hold weights, optimiser and schedules, but no state of any
    random number generator. Instead of saving generators, this hook makes their state
    a function of (seed, rank, epoch) in epoch-based training and of (seed, rank,
    iteration) in iteration-based training, by seeding Python, NumPy and torch (all
    devices) before each epoch or each batch. The seed is the run's own
    (``randomness=dict(seed=...)``); one that mmengine drew at random is read back
    from the checkpoint. Gradients that are accumulated over iterations
    (``accumulative_counts`` of the optimiser wrapper) and not applied yet, which
    mmengine loses, are kept in the checkpoint; of several processes, their mean.

    Exactness is promised for ``num_workers=0`` and deterministic kernels. With worker
    processes the order of the samples is still exact, and the randomness inside the
    workers depends on mmengine's ``worker_init_fn``, which seeds each worker with the
    same number whenever it starts. Hence it is exact too in epoch-based training with
    ``persistent_workers=False``, where workers start anew with each epoch, but not
    with ``persistent_workers=True`` or in iteration-based training, where workers
    restarted by a resume repeat the augmentations of the run's beginning.
    """

    # After all other hooks, so that none of them draws between the seeding and the
    # next batch.
    priority = "LOWEST"

    _gradients: list[Tensor | None] | None = None  # of a checkpoint, until they are set
    _by_epoch = True  # until training says otherwise; `runner.val()` alone never does

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add gradients that wait for the next step of the optimiser."""
        wrapper = runner.optim_wrapper
        if "optimizer" not in checkpoint or not _is_accumulating(wrapper):
            return
        gradients = [p.grad for p in _parameters(wrapper)]
        checkpoint[GRADIENTS] = [
            None if gradient is None else _mean_over_processes(gradient).cpu()
            for gradient in gradients
        ]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the gradients, which are set when the optimiser is there."""
        self._gradients = checkpoint.get(GRADIENTS) if runner._resume else None

    def before_train(self, runner: Runner) -> None:
        """Agree on one seed, known only now if it comes from a checkpoint, and set the
        gradients that it brought.
        """
        if self._gradients is not None:
            parameters = _parameters(runner.optim_wrapper)
            if _is_accumulating(runner.optim_wrapper):  # else other settings hold now
                for parameter, gradient in zip(parameters, self._gradients):
                    if gradient is not None:
                        parameter.grad = gradient.to(parameter)
            self._gradients = None
        # Rank 0's, which is the base if `diff_rank_seed` adds the rank to it.
        seed = [runner.seed]
        broadcast_object_list(seed)
        self.seed: int = seed[0]
        self.rank = get_rank()

        dataloader = runner.train_dataloader
        # A data loader draws one number whenever an iterator of it is made, which a
        # resumed iteration-based run does at another moment: give it its own source.
        dataloader.generator = torch.Generator()
        # The sampler was built before the checkpoint brought its seed.
        sampler = getattr(
            dataloader, "sampler", None
        )  # a list has none (vis_scheduler)
        sampler = getattr(
            getattr(dataloader, "batch_sampler", None), "sampler", sampler
        )
        if hasattr(sampler, "seed"):
            sampler.seed = self.seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed an epoch or, in iteration-based training, the first batch of this run.

        mmengine then skips the batches of the interrupted run. The maintained one skips
        their indices, which draws nothing from the global generators.
        """
        batches = getattr(runner.train_loop, "dataloader_iterator", None)
        self._by_epoch = batches is None
        step = runner.epoch if self._by_epoch else runner.iter
        runner.train_dataloader.generator.manual_seed(self._entropy(step)[0])
        self._seed_everything(step)
        if not self._by_epoch and not hasattr(batches, "skip_iter"):
            runner.train_loop.dataloader_iterator = self._seeded_after(batches, step)

    def _seeded_after(self, batches: Iterator, skipped: int) -> Iterator:
        """Seed again behind the batches that OpenMMLab's own mmengine loads to skip."""
        for _ in range(skipped):
            yield next(batches)
        self._seed_everything(skipped)
        yield from batches

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Seed the next batch of iteration-based training."""
        if not self._by_epoch:
            self._seed_everything(runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Seed the next batch again, because the validation drew numbers.

        A run resumed from a checkpoint written before the validation skips it.
        """
        if not self._by_epoch:
            self._seed_everything(runner.iter)

    def _entropy(self, step: int) -> list[int]:
        """Three unrelated 32-bit numbers for this (seed, rank, step)."""
        sequence = np.random.SeedSequence([self.seed, self.rank, step])
        return sequence.generate_state(3).tolist()

    def _seed_everything(self, step: int) -> None:
        for_python, for_numpy, for_torch = self._entropy(step)
        random.seed(for_python)
        np.random.seed(for_numpy)
        torch.manual_seed(for_torch)


def _is_accumulating(wrapper: OptimWrapper) -> bool:
    """Whether gradients wait for more before the optimiser's next step."""
    counts = getattr(wrapper, "_accumulative_counts", 1)
    return counts > 1 and wrapper._inner_count % counts != 0


def _parameters(wrapper: OptimWrapper) -> list[nn.Parameter]:
    return [p for group in wrapper.optimizer.param_groups for p in group["params"]]


def _mean_over_processes(gradient: Tensor) -> Tensor:
    """What synchronising the gradients, put off to the step, will make of them."""
    gradient = gradient.detach().clone()
    all_reduce(gradient, op="mean")
    return gradient
