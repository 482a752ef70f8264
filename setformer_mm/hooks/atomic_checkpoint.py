"""Checkpoints that survive a process killed at any moment."""

import inspect
import os.path as osp
import re
from collections import deque

from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend, LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils.files import remove_partial_files, write_atomically
from ..utils.resuming import POINTER, inside


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, except that bytes are written atomically."""

    def put(self, obj: bytes, filepath: str) -> None:
        write_atomically(filepath, obj)


# A storage backend is mmengine's own seam between "what is a checkpoint"
# (Runner.save_checkpoint) and "how are its bytes stored". `force` lets the module be
# imported again under another name, as config files and reloads do.
register_backend("atomic_local", AtomicLocalBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """:class:`mmengine.hooks.CheckpointHook` that never leaves a run without a file.

    The stock hook deletes the old checkpoint, then writes the new one in place, then
    writes the ``last_checkpoint`` pointer in place: a run killed in between has lost
    everything, or resumes from half a file. Here the order is: write the new
    checkpoint atomically, move the pointer atomically, delete outdated ones. Best
    checkpoints (``save_best``) follow the same order.

    All arguments are those of the stock hook. ``max_keep_ckpts=1`` acts as 2, because
    the checkpoint before the last is always kept. Nothing outside the folder of the
    run is deleted, also where a checkpoint was written in another one. Storage other
    than local files (``petrel://``, ``s3://``, ...) is written by mmengine's backend
    for it, whose ``put`` is the object store's own; the order of writing and deleting
    is the same.
    """

    def __init__(self, *args, max_keep_ckpts: int = -1, **kwargs) -> None:
        if max_keep_ckpts > 0:
            max_keep_ckpts = max(max_keep_ckpts, 2)
        super().__init__(*args, max_keep_ckpts=max_keep_ckpts, **kwargs)
        # What mmengine would find at the first checkpoint, after hours.
        if not isinstance(self.interval, int):
            raise TypeError(f"interval must be an integer, got {self.interval!r}")
        known = inspect.signature(Runner.save_checkpoint).parameters
        for name in self.args:  # which are passed on to it
            if name not in known:
                raise TypeError(f"unexpected argument {name!r} of {type(self)}")

    def before_train(self, runner: Runner) -> None:
        """Choose the storage and clear what a killed run left behind."""
        known = runner.message_hub.runtime_info
        if "keep_ckpt_ids" in known:  # mmengine deletes the files of some of them
            steps = [step for step in known["keep_ckpt_ids"] if type(step) is int]
            runner.message_hub.update_info("keep_ckpt_ids", steps)
        super().before_train(runner)
        self._forget_other_folders(runner)
        if isinstance(self.file_backend, LocalBackend):
            self.backend_args = dict(backend="atomic_local")
            if is_main_process():
                for path in {self.out_dir, runner.work_dir}:
                    for leftover in remove_partial_files(path):
                        runner.logger.info(f"Removed the unfinished file {leftover}.")
        if self.max_keep_ckpts > 0:
            # One more than stays is on disk between saving and deleting.
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)

    def _forget_other_folders(self, runner: Runner) -> None:
        """Move paths that a checkpoint brought to the folder of this run.

        It may be a copy of the one in which they were written, or lie elsewhere now;
        the hook deletes the best checkpoint that it knows of for a better one, so what
        it could not have written itself is forgotten.
        """
        hub = runner.message_hub
        for key, path in list(hub.runtime_info.items()):
            if not key.startswith(("best_ckpt", "last_ckpt")):
                continue
            path = inside(self.out_dir, path) if isinstance(path, str) else ""
            if key.startswith("best_ckpt") and not self._is_best_of_this_run(path):
                hub.pop_info(key)
            else:
                hub.update_info(key, path)
        if self.save_best is None:
            return
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = hub.runtime_info.get("best_ckpt")
        else:
            for name in self.key_indicators:
                path = hub.runtime_info.get(f"best_ckpt_{name}")
                self.best_ckpt_path_dict[name] = path

    def _is_best_of_this_run(self, path: str) -> bool:
        """Whether it is named as this hook names best checkpoints, in its folder."""
        numbered = re.escape(self.filename_tmpl).replace(re.escape("{}"), r"\d+")
        is_named_so = re.fullmatch(f"best_.+_{numbered}", osp.basename(path))
        return is_named_so is not None and osp.dirname(path) == osp.dirname(
            osp.join(self.out_dir, "")
        )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        if self.max_keep_ckpts > 0:
            if step not in self.keep_ckpt_ids:
                self.keep_ckpt_ids.append(step)
            # The checkpoint lists itself and the one about to be deleted, so that a
            # run killed before the deletion does it on resuming.
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            pointer = osp.join(runner.work_dir, POINTER)
            write_atomically(pointer, self.last_ckpt)

        if self.max_keep_ckpts > 0:
            while len(self.keep_ckpt_ids) > self.max_keep_ckpts:
                outdated = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                self._remove(self.file_backend.join_path(self.out_dir, outdated))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        # The stock method deletes the previous best file before it writes the new one.
        storage = self.file_backend
        self.file_backend = postponed = _PostponedRemoval(storage)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = storage
        known = runner.message_hub.runtime_info
        best = {known[key] for key in known if key.startswith("best_ckpt")}
        for path in postponed.paths:
            if path not in best:
                self._remove(path)

    def _remove(self, path: str) -> None:
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # sharded checkpoints are folders
            self.file_backend.rmtree(path)


class _PostponedRemoval:
    """A storage backend that only takes down what it is asked to delete."""

    def __init__(self, storage: BaseStorageBackend) -> None:
        self.storage = storage
        self.paths: list[str] = []

    def remove(self, path: str) -> None:
        self.paths.append(path)

    rmtree = remove

    def __getattr__(self, name: str):
        return getattr(self.storage, name)
