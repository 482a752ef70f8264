"""Folders that one process at a time writes to."""

import os
import socket
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import fcntl

LOCK_NAME = ".setformer_mm.lock"

# The locks of this process, by folder, open until it ends.
_held: dict[Path, IO] = {}


def hold_folder(folder: str | os.PathLike, otherwise: str) -> None:
    """Keep other processes that ask for ``folder`` out of it until this one ends.

    The lock is POSIX's, which belongs to the process alone: a killed training frees
    its folder at once, though workers that it had forked live on for some seconds.
    Where the file system has no locks a warning says so. Windows has none.

    Args:
        folder: it is made if it is missing, and gets a file :data:`LOCK_NAME`, which
            stays.
        otherwise: what to do rather than wait, for the error's sentence.

    Raises:
        UserError: if another process holds it, which the sentence names, or the folder
            cannot be written to.
    """
    folder = Path(folder).resolve()
    if fcntl is None or folder in _held:
        return
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not emptied: as long as another process holds it, it says which.
        file = open(path, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}); {otherwise}"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        with file:
            file.seek(0)
            holder = file.read().strip() or "another process"
        raise UserError(
            f"{folder} is in use by {holder}; wait for its end, or {otherwise}"
        ) from None
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): nothing keeps a second "
            "process from writing there",
            stacklevel=2,
        )
        file.close()
        return
    file.truncate(0)
    file.write(f"{describe_process()}\n")
    file.flush()
    _held[folder] = file


def describe_process() -> str:
    """This process in words: number, machine, time and command."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = os.path.basename(sys.argv[0]) or "python"
    return f"process {os.getpid()} on {socket.gethostname()} since {now} ({command})"
