"""What the command-line tools have in common."""

import argparse
import os
import os.path as osp
import sys
from collections.abc import Callable

import torch
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .errors import UserError


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; print a :class:`UserError` as one line and exit with status 1.

    Any other exception is not the user's mistake and keeps its traceback.
    """
    try:
        main()
        leave_process_group()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def leave_process_group() -> None:
    """End distributed running, if there was any, before the interpreter does.

    A process that exits while another one still talks to it can take that one down,
    and torchrun then reports a training as failed that had succeeded.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing share."""
    parser.add_argument(
        "--work-dir", help="where to write logs and results (work_dirs/<config name>)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="settings that replace those of the config, e.g. train_cfg.max_epochs=12",
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how several processes were started; torchrun is 'pytorch'",
    )
    # torchrun sets LOCAL_RANK; older launchers pass it in one of two spellings.
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0)


def read_config(path: str) -> Config:
    """Read a config file.

    Raises:
        UserError: if it, or one that it inherits from, does not exist.
    """
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        raise UserError(f"the config {error.filename} does not exist") from error


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and apply the common flags to it.

    Raises:
        UserError: if the config does not exist, or if ``--launcher pytorch`` was given
            outside torchrun.
    """
    if args.launcher == "pytorch" and "RANK" not in os.environ:
        raise UserError("--launcher pytorch is for torchrun; see tools/dist_train.sh")
    cfg = read_config(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get("work_dir"):
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join("work_dirs", name)
    cfg.launcher = args.launcher
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config as one process runs it, with random weights.

    Args:
        cfg: a whole config.

    Returns:
        In evaluation mode; synchronised batch norms are ordinary ones.
    """
    scope = cfg.get("default_scope", "mmengine")
    with DefaultScope.overwrite_default_scope(scope):
        return revert_sync_batchnorm(MODELS.build(cfg.model)).eval()


def use_gloo_on_cpu(cfg: Config) -> None:
    """Prepare several processes on a machine without GPU; otherwise do nothing.

    mmengine selects a CUDA device before it creates the process group, whatever the
    backend, and gives it to DistributedDataParallel. It does neither if it finds the
    group made and the wrapper configured.
    """
    if cfg.launcher == "none" or torch.cuda.is_available():
        return
    if cfg.launcher != "pytorch":
        raise UserError(
            f"--launcher {cfg.launcher} needs GPUs; several processes on CPUs are "
            "started by torchrun with --launcher pytorch"
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    cfg.setdefault("model_wrapper_cfg", {})
    cfg.model_wrapper_cfg.setdefault("type", "MMDistributedDataParallel")
    cfg.model_wrapper_cfg.setdefault("broadcast_buffers", False)
    cfg.model_wrapper_cfg.setdefault(
        "find_unused_parameters", cfg.get("find_unused_parameters", False)
    )
    cfg.model_wrapper_cfg.device_ids = None
