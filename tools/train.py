"""Train any model: ``python tools/train.py CONFIG [--work-dir DIR] [--resume] ...``."""

import argparse
import os
import os.path as osp
from functools import partial

from toolkit.flags import add_common_arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a model.")
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from a checkpoint (without a path: the last one in work-dir)",
    )
    parser.add_argument(
        "--amp", action="store_true", help="automatic mixed precision in bfloat16"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the total batch size",
    )
    add_common_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from setformer_mm.hooks import DataCheckHook, ExactResumeHook, ResumeSettingsHook
from setformer_mm.hooks.non_finite_loss import divergence_explained
from setformer_mm.optim import cancelled_exemptions, group_table
from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    require_fitting_weights,
)
from setformer_mm.utils.data_sources import require_known_classes
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import FILE_NAMES
from setformer_mm.utils.resuming import (
    checkpoint_folder,
    find_checkpoint,
    last_checkpoint,
    require_training_state,
    start_anew,
)
from toolkit.backbone_use import (
    require_fitting_widths,
    require_known_constructor,
    unused_outputs,
)
from toolkit.config_checks import (
    require_enough_for_batch_norm,
    require_fitting_class_counts,
    require_parts,
    require_usable_class_weights,
)
from toolkit.launch import (
    build_runner,
    explain,
    form_explained,
    hold_work_dir,
    load_config,
    one_line,
    run_tool,
    say,
    use_gloo_on_cpu,
)
from toolkit.preflight import require_data, require_pretrained_weights

# Of a config, without which there is nothing to train.
PARTS = ("model", "train_dataloader", "train_cfg", "optim_wrapper")


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Write the flags of training into the config."""
    if args.resume or (cfg.get("resume") and not cfg.get("load_from")):
        path = args.resume or "auto"
        if path == "auto":
            path, problem = find_checkpoint(cfg.work_dir, checkpoint_folder(cfg))
            if problem:
                say(f"warning: {problem}")
        # Without a checkpoint yet, "auto" starts as the config says.
        cfg.resume = bool(path)
        if path:
            cfg.load_from = path
    if args.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("dtype", "bfloat16")
    if cfg.optim_wrapper.get("type") == "AmpOptimWrapper":
        if not torch.cuda.is_available():
            raise UserError(
                "mixed precision needs a GPU and torch sees none; train without --amp "
                "(optim_wrapper.type=OptimWrapper)"
            )
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise UserError(
                "--auto-scale-lr needs the batch size that the learning rate is meant "
                "for; add auto_scale_lr=dict(base_batch_size=...) to the config"
            )
        cfg.auto_scale_lr.enable = True


class ParameterTableHook(Hook):
    """Show what the optimiser does with the parameters, before a state is resumed."""

    def before_run(self, runner: Runner) -> None:
        table = group_table(runner.optim_wrapper, runner.model)
        runner.logger.info(f"Parameters of the optimiser:\n{table}")


# Of every training, also where a config's own `custom_hooks` replaced those inherited:
# what looks before it leaps, and what makes resuming exact.
HOOKS = (ResumeSettingsHook, DataCheckHook, ParameterTableHook, ExactResumeHook)


def register_hooks(runner: Runner) -> None:
    """Add those of :data:`HOOKS` that the config does not have, and say so.

    The list of hooks in the log is the runner's, from before.
    """
    missing = [
        hook
        for hook in HOOKS
        if not any(isinstance(known, hook) for known in runner.hooks)
    ]
    for hook in missing:
        runner.register_hook(hook())
    names = ", ".join(hook.__name__ for hook in missing)
    runner.logger.info(f"Hooks of every training, in addition: {names or 'none'}")


def require_same_model(runner: Runner, path: str, checkpoint: dict) -> None:
    """Check that a training goes on with the model that it began with.

    Args:
        runner: of the training.
        path: of the checkpoint that it will resume.
        checkpoint: what is in it.

    Raises:
        UserError: if weights are missing from the checkpoint or have another shape,
            which mmengine would only warn of.
    """
    if isinstance(runner.model, FullyShardedDataParallel):
        return  # its weights are pieces, and loaded by a way of their own
    otherwise = start_anew(path)
    require_fitting_weights(runner, path, checkpoint=checkpoint, otherwise=otherwise)


def cannot_resume(path: str, error: Exception) -> UserError:
    """Say why a runner could not take over the state in a checkpoint."""
    return UserError(f"{path} cannot be resumed: {one_line(error)}; {start_anew(path)}")


def train(runner: Runner) -> None:
    """Train, and on Ctrl-C say what is kept.

    Raises:
        UserError: on Ctrl-C.
    """
    try:
        with divergence_explained(runner):
            runner.train()
    except KeyboardInterrupt:
        path = last_checkpoint(runner.work_dir, checkpoint_folder(runner.cfg))
        kept = "nothing has been saved yet"
        if path:
            kept = f"{path} is kept, and the same command with --resume goes on from it"
        raise UserError(f"stopped at iteration {runner.iter}; {kept}") from None


def print_outputs(runner: Runner) -> None:
    """Say where a finished training has left what."""
    folder = checkpoint_folder(runner.cfg)
    log = osp.join(runner.log_dir, f"{runner.timestamp}.log")
    result = osp.join(runner.work_dir, FILE_NAMES["train"])
    outputs = dict(
        checkpoint=last_checkpoint(runner.work_dir, folder),
        log=log if osp.isfile(log) else None,
        # A config may do without the hook that writes it.
        result=result if osp.isfile(result) else None,
    )
    print("Training done.")
    for name, path in outputs.items():
        print(f"  {name:12}{path or 'none'}")


def require_used_outputs(cfg: Config) -> None:
    """Warn of outputs of the backbone that nobody takes; refuse where torch would."""
    sentence = unused_outputs(cfg)
    if sentence is None:
        return
    is_distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if is_distributed and not cfg.get("find_unused_parameters"):
        raise UserError(f"{sentence}; or set find_unused_parameters=True")
    say(f"warning: {sentence}")


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    require_parts(cfg, PARTS)
    load_checkpoints_safely()
    with form_explained(cfg):
        apply_arguments(cfg, args)
        require_data(cfg, ("train", "val"), has_options=True)
        require_known_classes(cfg, ("train", "val"))
        require_pretrained_weights(cfg, has_options=True)
        require_enough_for_batch_norm(cfg)
        require_fitting_class_counts(cfg, ("train", "val"))
        require_usable_class_weights(cfg)
        require_known_constructor(cfg)
        require_fitting_widths(cfg)
        require_used_outputs(cfg)
    checkpoint = None
    if cfg.get("resume") and cfg.get("load_from"):
        has_schedule = bool(cfg.get("param_scheduler"))
        checkpoint = require_training_state(cfg.load_from, has_schedule)
    hold_work_dir(cfg)
    use_gloo_on_cpu(cfg)
    runner = build_runner(cfg, ("train", "val"))
    if checkpoint is not None:
        require_same_model(runner, cfg.load_from, checkpoint)
        del checkpoint  # mmengine reads it again
        explain(runner, "resume", partial(cannot_resume, cfg.load_from))
    for sentence in cancelled_exemptions(runner.model, cfg.optim_wrapper):
        say(f"warning: {sentence}")
    register_hooks(runner)
    train(runner)
    if is_main_process():
        print_outputs(runner)


if __name__ == "__main__":
    run_tool(main)
