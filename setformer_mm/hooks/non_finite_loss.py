"""End a training that has diverged, while there is a checkpoint to go back to."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..ops import NonFiniteError
from ..utils.checkpoints import find_non_finite
from ..utils.errors import UserError
from ..utils.resuming import checkpoint_folder, last_checkpoint


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop a training whose loss is NaN or infinite.

    Nothing mends weights that are not finite: once the loss has made them so, the
    training stops at once. While they are finite, as when a ``GradScaler`` leaves out
    the steps of gradients that overflow in float16, it stops after ``patience``
    iterations in a row. Checkpoints are looked at before they are written, so that none
    with NaN ever takes the place of the last finite one.

    Args:
        patience (int): Iterations in a row with a loss that is not finite.

    Raises:
        ValueError: If ``patience`` is not positive.
        UserError: In training, with the iteration, the learning rate and the last
            finite checkpoint.
    """

    # Before the hook that saves checkpoints, after the one that averages weights.
    priority = "LOW"

    def __init__(self, patience: int = 10) -> None:
        if patience < 1:
            raise ValueError(f"patience must be positive, got {patience}")
        self.patience = patience
        self._count = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Look at the loss, for which mmengine's own hook for logs has waited."""
        loss = torch.as_tensor((outputs or {}).get("loss", 0)).item()
        if math.isfinite(loss):
            self._count = 0
            return
        self._count += 1
        if broken := find_non_finite(dict(runner.model.named_parameters())):
            _stop(runner, f"the loss is {loss} and {broken[0]} is not finite any more")
        if self._count >= self.patience:
            _stop(runner, f"the loss is {loss} for iteration {self._count} in a row")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights, which a gradient can break whatever the loss is."""
        if broken := find_non_finite(checkpoint["state_dict"]):
            _stop(runner, f"{broken[0]} holds NaN or infinity and is not saved")


@contextmanager
def divergence_explained(runner: Runner) -> Iterator[None]:
    """Say as much when attention meets weights that are not finite, before the loss."""
    try:
        yield
    except NonFiniteError as error:
        _stop(runner, str(error))


def _stop(runner: Runner, reason: str) -> None:
    rate = max(max(rates) for rates in runner.optim_wrapper.get_lr().values())
    sentence = (
        f"the training stops in iteration {runner.iter + 1}, at a learning rate of "
        f"{rate:.3g}: {reason}; "
    )
    if path := last_checkpoint(runner.work_dir, checkpoint_folder(runner.cfg)):
        sentence += (
            f"the last finite checkpoint is {path}: start from it at a lower rate with "
            f"--cfg-options load_from={path} optim_wrapper.optimizer.lr=RATE"
        )
    else:
        sentence += "there is no checkpoint yet: start again at a lower rate"
    if not is_main_process():  # of which alone the tools show what they end with
        runner.logger.error(sentence)
    raise UserError(sentence)
