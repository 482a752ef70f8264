"""The result of a training as a file."""

import os.path as osp

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils.results import FILE_NAMES, describe_run, write_result
from ..utils.resuming import checkpoint_folder, last_checkpoint


@HOOKS.register_module()
class TrainResultHook(Hook):
    """Write ``train_result.json`` (:class:`~setformer_mm.utils.results.Result`).

    It holds the metrics of the last weights. A run that was killed between its last
    checkpoint and the validation of it validates when it is resumed.
    """

    priority = "LOWEST"  # after the hook that saves checkpoints

    def __init__(self) -> None:
        self._metrics: dict = {}
        self._validated_iter: int | None = None

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Note the metrics and of which weights they are."""
        self._metrics = metrics or {}
        self._validated_iter = runner.iter

    def after_train(self, runner: Runner) -> None:
        """Write the result."""
        if runner.val_loop is not None and self._validated_iter != runner.iter:
            runner.val_loop.run()
        if not is_main_process():
            return
        result = describe_run(
            runner.cfg,
            kind="train",
            metrics=self._metrics,
            model=runner.model,
            checkpoint=last_checkpoint(runner.work_dir, checkpoint_folder(runner.cfg)),
            seed=runner.seed,
            best=_best_scores(runner),
        )
        write_result(osp.join(runner.work_dir, FILE_NAMES["train"]), result)


def _best_scores(runner: Runner) -> dict[str, float]:
    """What the hook for checkpoints knows of the best validation, over resumed runs."""
    scores = {}
    known = runner.message_hub.runtime_info
    for hook in runner.hooks:
        names = isinstance(hook, CheckpointHook) and getattr(hook, "key_indicators", [])
        for name in names or []:
            key = "best_score" if len(names) == 1 else f"best_score_{name}"
            if key in known:
                scores[name] = known[key]
    return scores
