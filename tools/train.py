"""Train any model: ``python tools/train.py CONFIG [--work-dir DIR] [--resume] ...``."""

import argparse

import torch
from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint

from setformer_mm.hooks.non_finite_loss import divergence_explained
from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    require_training_state,
)
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.launch import (
    add_common_arguments,
    hold_work_dir,
    load_config,
    run_tool,
    use_gloo_on_cpu,
)
from setformer_mm.utils.preflight import require_data, require_pretrained_weights


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


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Write the flags of training into the config."""
    if args.resume:
        auto = args.resume == "auto"
        path = find_latest_checkpoint(cfg.work_dir) if auto else args.resume
        # Without a checkpoint yet, "auto" starts as the config says.
        if path:
            cfg.resume, cfg.load_from = True, path
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


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    apply_arguments(cfg, args)
    load_checkpoints_safely()
    require_data(cfg, ("train", "val"))
    require_pretrained_weights(cfg)
    if cfg.get("resume") and cfg.get("load_from"):
        require_training_state(cfg.load_from)
    hold_work_dir(cfg)
    use_gloo_on_cpu(cfg)
    runner = Runner.from_cfg(cfg)
    with divergence_explained(runner):
        runner.train()


if __name__ == "__main__":
    run_tool(main)
