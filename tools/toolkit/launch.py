"""What the command-line tools have in common."""

import argparse
import errno
import io
import os
import os.path as osp
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.spelling import did_you_mean

from .config_checks import (
    misspelt_fields,
    padding_mistaken,
    require_hooks,
    require_integers,
)
from .folder_lock import hold_folder
from .host_messages import HostMessages, quieten_host_libraries
from .outputs import require_writable_folder

# Where a launcher says which of its processes this is.
RANK_VARIABLES = dict(pytorch="RANK", slurm="SLURM_PROCID", mpi="OMPI_COMM_WORLD_RANK")
# What the disk says and no program can mend.
DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
}
# What a class that a config names says to fields that it cannot take.
BUILD_ERRORS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,  # mmengine writes keys as text, in which an apostrophe ends them
    TypeError,
    ValueError,
)


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; print a :class:`UserError` as one line and exit with status 1.

    So does a disk that is full or cannot be written; Ctrl-C exits with status 130. Any
    other exception is not the user's mistake and keeps its traceback; with
    ``SETFORMER_MM_TRACEBACK=1`` all do. A sign that the terminal's encoding lacks is
    printed as its number. Of what the host libraries say, :mod:`.host_messages` leaves
    out some.
    """
    quieten_host_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        leave_process_group()
        return
    except (UserError, KeyboardInterrupt, OSError) as error:
        if os.environ.get("SETFORMER_MM_TRACEBACK") == "1":
            traceback.print_exc()
        message, status = _explain(error)
    say(f"error: {message}")
    sys.exit(status)


def _explain(error: BaseException) -> tuple[str, int]:
    """One line on what stopped a tool, and its exit status."""
    if isinstance(error, UserError):
        return str(error), 1
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C", 130
    if error.errno not in DISK_ERRORS:
        raise error
    where = f" ({error.filename})" if error.filename else ""
    return f"cannot read or write: {error.strerror}{where}", 1


def say(message: str) -> None:
    """Print a line for the user, from one process of several."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)


def leave_process_group() -> None:
    """End distributed running, if there was any, before the interpreter does.

    A process that exits while another one still talks to it can take that one down,
    and torchrun then reports a training as failed that had succeeded.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def read_config(path: str) -> Config:
    """Read a config file.

    Raises:
        UserError: if it, or one that it inherits from, does not exist or cannot be
            read.
    """
    if osp.isdir(path):
        raise UserError(f"the config {path} is a folder; name a file in it")
    if not osp.exists(path):
        folder = osp.dirname(path) or "."
        files = os.listdir(folder) if osp.isdir(folder) else []
        known = [osp.join(osp.dirname(path), name) for name in files if "." in name]
        if osp.exists(f"{path}.py"):
            known = [f"{path}.py"]
        raise UserError(f"the config {path} does not exist{did_you_mean(path, known)}")
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        missing = error.filename or error
        raise UserError(f"the config {missing} does not exist") from error
    except Exception as error:  # it is a program
        raise UserError(
            f"the config {path} cannot be read: {one_line(error)}"
        ) from error


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and apply the common flags to it.

    Warns of fields that look misspelt.

    Raises:
        UserError: if the config does not exist or cannot be meant, if the work
            directory cannot be written, or if ``--launcher pytorch`` was given outside
            torchrun.
    """
    if args.launcher == "pytorch" and "RANK" not in os.environ:
        raise UserError("--launcher pytorch is for torchrun; see tools/dist_train.sh")
    cfg = read_config(args.config)
    if args.cfg_options:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(f"--cfg-options do not fit: {one_line(error)}") from error
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get("work_dir"):
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join("work_dirs", name)
    require_writable_folder(cfg.work_dir, "--work-dir")
    with form_explained(cfg):
        for sentence in (*misspelt_fields(cfg), *padding_mistaken(cfg)):
            say(f"warning: {sentence}")
        require_integers(cfg)
        require_hooks(cfg)
    cfg.launcher = args.launcher
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return cfg


@contextmanager
def form_explained(cfg: Config) -> Iterator[None]:
    """For checks before anything is built, which read what may be of any form.

    Raises:
        UserError: in place of what a dict says that lacks a field, and the like.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # Sentences of our own rules speak for themselves.
        is_rule = type(error) is ValueError
        what = "cannot be used" if is_rule else "is not of the form of a config"
        raise UserError(
            f"the config {cfg.filename} {what}: {one_line(error)}; "
            "SETFORMER_MM_TRACEBACK=1 shows where"
        ) from error


def hold_work_dir(cfg: Config) -> None:
    """Keep other trainings out of the work directory until this process ends.

    Of several processes of one training the first one does.

    Raises:
        UserError: naming the process that trains there already.
    """
    if os.environ.get(RANK_VARIABLES.get(cfg.launcher, ""), "0") == "0":
        hold_folder(cfg.work_dir, "name another folder with --work-dir")


def one_line(error: BaseException) -> str:
    """What an exception says, in one line that ends without a full stop."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else error
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        return kind
    # Sentences of our own rules speak for themselves.
    first = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")
    return first if type(error) is ValueError else f"{kind}: {first}"


def build_runner(cfg: Config, splits: tuple[str, ...]) -> Runner:
    """Build the model of a config and the data of ``splits``.

    Raises:
        UserError: if a class that the config names does not take its fields, or finds
            its data incomplete.
    """
    try:
        runner = Runner.from_cfg(cfg)
    except BUILD_ERRORS as error:
        raise _unbuildable("the config", cfg, error) from error
    runner.logger.addFilter(HostMessages())
    for split in splits:
        try:
            getattr(runner, f"{split}_loop")  # builds it
        except BUILD_ERRORS as error:
            raise _unbuildable(f"{split}_dataloader", cfg, error) from error
    # A runner builds these when it begins to train.
    for name in ("optim_wrapper", "param_scheduler"):
        explain(runner, f"build_{name}", partial(_unbuildable, name, cfg))
    return runner


def explain(
    runner: Runner, method: str, to_user_error: Callable[[Exception], UserError]
) -> None:
    """Let a method of a runner raise a :class:`UserError` in place of others."""
    original = getattr(runner, method)

    def explained(*args, **kwargs):
        try:
            return original(*args, **kwargs)
        except BUILD_ERRORS as error:
            raise to_user_error(error) from error

    setattr(runner, method, explained)


def _unbuildable(what: str, cfg: Config, error: Exception) -> UserError:
    return UserError(
        f"{what} cannot be built ({cfg.filename}): {one_line(error)}; "
        "SETFORMER_MM_TRACEBACK=1 shows where"
    )


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config as one process runs it, with random weights.

    Args:
        cfg: a whole config; a ``data_preprocessor`` beside the model is the model's, as
            for mmengine's Runner.

    Returns:
        In evaluation mode; synchronised batch norms are ordinary ones.

    Raises:
        UserError: if a class that the config names does not take its fields.
    """
    scope = cfg.get("default_scope", "mmengine")
    fields = cfg.model.copy()
    if cfg.get("data_preprocessor") is not None:
        fields.setdefault("data_preprocessor", cfg.data_preprocessor)
    try:
        with DefaultScope.overwrite_default_scope(scope):
            return revert_sync_batchnorm(MODELS.build(fields)).eval()
    except BUILD_ERRORS as error:
        raise _unbuildable("the model", cfg, error) from error


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
