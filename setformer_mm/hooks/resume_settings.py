"""A resumed run follows the config in use, and says where that differs from before."""

import warnings

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils.errors import UserError
from ..utils.resuming import (
    checkpoint_folder,
    describe,
    differences,
    find_checkpoint,
    recorded_settings,
    start_anew,
)

# Fields of schedulers that end them.
ENDS = ("end", "T_max", "total_steps")
# Changes of these change the schedule.
SCHEDULE = ("optim_wrapper", "param_scheduler", "train_cfg", "auto_scale_lr")
# What the message hub, and with it every checkpoint, keeps of a run's extent.
EXTENT = ("world_size", "epoch_length")


@HOOKS.register_module()
class ResumeSettingsHook(Hook):
    """Let changed settings count when a training is resumed.

    mmengine takes optimiser and schedule from the checkpoint as they are, so that
    another learning rate, weight decay, schedule or length in the config has no effect,
    without a word. With this hook, if anything that decides how a training goes differs
    from the config in the checkpoint, one warning lists it, and

    - the optimiser's settings are those of the config; its state (moments) is kept;
    - the schedule is that of the config, at the step that the run has reached, as if it
      had been in force from the beginning;
    - in epoch-based training, iterations are counted in epochs of the new length where
      batch size, data or the number of processes change it.

    A run resumed with the same settings is not touched. The seed stays that of the
    checkpoint. A checkpoint is looked for only in the folder in use, and not only by
    the pointer ``last_checkpoint``
    (:func:`setformer_mm.utils.resuming.find_checkpoint`).

    Raises:
        UserError: If the training becomes longer and its schedule does not; if the
            optimiser is of another kind, or its groups of parameters are others; if the
            schedule cannot be computed anew; or if the checkpoint holds a config that
            mmengine would execute.
    """

    priority = "HIGHEST"  # the others see the iteration and the rates that count

    def __init__(self) -> None:
        self._fresh_groups: list[dict] | None = None

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint if the config asks to resume and names none."""
        if runner._resume and runner._load_from is None:
            folder = checkpoint_folder(runner.cfg)
            path, problem = find_checkpoint(runner.work_dir, folder)
            runner._load_from = path
            if problem:
                runner.logger.warning(problem)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the settings before anything of the state is taken over."""
        if not runner._resume:
            return
        # mmengine writes `cfg`; its `Runner.resume` runs what is called `config`.
        if "config" in checkpoint.get("meta", {}):
            raise UserError(
                "the checkpoint to resume holds a config as code (meta.config), which "
                "is never executed"
            )
        changed = self._changes(runner, checkpoint)
        self._require_same_optimiser(changed)
        self._require_same_groups(runner, checkpoint)
        if not changed.keys() - {"randomness.seed"}:
            return  # mmengine warns of the seed itself
        self._require_longer_schedule(runner, changed)
        runner.logger.warning(
            "This run is resumed with other settings than it had, and does not repeat "
            f"an uninterrupted one: {describe(changed)}. Optimiser and schedule are "
            "those of this config from here on, at the step that the run has reached; "
            "moments of the optimiser and the seed are those of the checkpoint."
        )
        if {"world_size", "train_dataloader.batch_size"} & changed.keys():
            runner.logger.warning(
                "The total batch size may have changed: the learning rate is scaled "
                "with it only under --auto-scale-lr (auto_scale_lr.enable)."
            )
        if any(key.startswith((*SCHEDULE, *EXTENT)) for key in changed):
            self._require_computable_schedule(runner)
            self._fresh_groups = [
                {name: value for name, value in group.items() if name != "params"}
                for group in runner.optim_wrapper.optimizer.param_groups
            ]

    def before_train(self, runner: Runner) -> None:
        """Note the extent of the run, and adapt what was resumed."""
        for name, value in _extent(runner).items():
            runner.message_hub.update_info(name, value)
        if self._fresh_groups is None:
            return
        groups = runner.optim_wrapper.optimizer.param_groups
        for group, fresh in zip(groups, self._fresh_groups):
            group.update(fresh)
            for name in fresh:  # where schedules start
                if name.startswith("initial_"):
                    group[name.removeprefix("initial_")] = fresh[name]
        self._fresh_groups = None
        loop = runner.train_loop
        if _by_epoch(runner):
            loop._iter = loop.epoch * len(runner.train_dataloader)
        runner.optim_wrapper.initialize_count_status(
            runner.model, loop.iter, loop.max_iters
        )
        _replay_schedule(runner)

    def _changes(self, runner: Runner, checkpoint: dict) -> dict[str, tuple]:
        """What differs from the config and the extent in the checkpoint."""
        changed = {}
        try:
            old = recorded_settings(checkpoint["meta"]["cfg"])
            new = recorded_settings(runner.cfg.pretty_text)
        except (KeyError, TypeError, ValueError):
            runner.logger.warning(
                "The checkpoint does not tell the settings of its run: whether this "
                "config differs from them is not known."
            )
        else:
            changed |= differences(old, new)
        known = checkpoint["message_hub"].get("runtime_info", {})
        for name, value in _extent(runner).items():
            if name in known and known[name] != value:
                changed[name] = known[name], value
        return changed

    def _require_longer_schedule(
        self, runner: Runner, changed: dict[str, tuple]
    ) -> None:
        """Refuse a longer training whose schedule ends where the shorter one did."""
        length = "max_epochs" if _by_epoch(runner) else "max_iters"
        old, new = changed.get(f"train_cfg.{length}", (0, 0))
        if not isinstance(old, int) or not isinstance(new, int) or new <= old:
            return
        schedule = runner.cfg.get("param_scheduler") or []
        one = isinstance(schedule, dict)
        schedulers = [schedule] if one else schedule
        tied = [
            f"param_scheduler.{name}" if one else f"param_scheduler.{index}.{name}"
            for index, scheduler in enumerate(schedulers)
            for name in ENDS
            if scheduler.get(name) == old
        ]
        if tied and not _goes_on(schedulers, old, _by_epoch(runner)):
            options = " ".join(f"{key}={new}" for key in tied)
            raise UserError(
                f"train_cfg.{length} is {new} and was {old} in the checkpoint, where "
                f"the schedule still ends ({tied[0]}={old}): what is added would train "
                f"at the last, smallest rate; add {options} to --cfg-options, and the "
                "run goes on at the rate that the longer schedule has there"
            )

    def _require_same_optimiser(self, changed: dict[str, tuple]) -> None:
        """Refuse a state that another kind of optimiser would misread, or not read."""
        old, new = changed.get("optim_wrapper.optimizer.type", ("", ""))
        if old != new and {old, new} != {"Adam", "AdamW"}:
            raise UserError(
                f"the optimiser is {new} and was {old} in the checkpoint, whose state "
                f"is no other's; {start_anew('CHECKPOINT')}"
            )

    def _require_same_groups(self, runner: Runner, checkpoint: dict) -> None:
        """Check that the optimiser can take over its state."""
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            return
        old = (checkpoint.get("optimizer") or {}).get("param_groups", [])
        groups = runner.optim_wrapper.optimizer.param_groups
        sizes = [[len(group["params"]) for group in each] for each in (old, groups)]
        if old and sizes[0] != sizes[1]:
            raise UserError(
                f"the optimiser has {len(groups)} groups of {sum(sizes[1])} parameters "
                f"and in the checkpoint {len(old)} of {sum(sizes[0])}: model, frozen "
                "stages, constructor or paramwise_cfg are others; "
                f"{start_anew('CHECKPOINT')}"
            )

    def _require_computable_schedule(self, runner: Runner) -> None:
        """Check that :func:`_replay_schedule` can do what it is for."""
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            raise UserError(
                "a run with several optimisers can only be resumed with the schedule "
                "that it had"
            )
        for scheduler in runner.param_schedulers or []:
            if getattr(scheduler, "need_val_args", False):
                raise UserError(
                    f"{type(scheduler).__name__} follows the validations, which are "
                    "not kept: such a run can only be resumed with the schedule that "
                    "it had"
                )


def _goes_on(schedulers: list[dict], length: int, by_epoch: bool) -> bool:
    """Whether one of those that count in the unit of ``length`` ends later."""
    return any(
        (scheduler.get(name) or 0) > length
        for scheduler in schedulers
        if scheduler.get("by_epoch", True) == by_epoch
        for name in ENDS
    )


def _by_epoch(runner: Runner) -> bool:
    return not hasattr(runner.train_loop, "dataloader_iterator")


def _extent(runner: Runner) -> dict[str, int]:
    extent = dict(world_size=get_world_size())
    if hasattr(runner.train_dataloader.dataset, "__len__"):  # a stream has no epochs
        extent["epoch_length"] = len(runner.train_dataloader)
    return extent


def _replay_schedule(runner: Runner) -> None:
    """Build the schedule of the config and step it to where the run is.

    In the order of a run: every iteration, and after the last one of an epoch the
    schedulers that count epochs.
    """
    schedule = runner.cfg.get("param_scheduler")
    if not schedule:
        return
    loop, by_epoch = runner.train_loop, _by_epoch(runner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no step of the optimiser between
        runner.param_schedulers = runner.build_param_scheduler(schedule)
        length = len(runner.train_dataloader) if by_epoch else loop.max_iters + 1
        for iteration in range(1, loop.iter + 1):
            for scheduler in runner.param_schedulers:
                if not scheduler.by_epoch or iteration % length == 0:
                    scheduler.step()
