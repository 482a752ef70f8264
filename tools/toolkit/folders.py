"""Folders that are replaced as a whole, and only if nothing in them is somebody's."""

import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from setformer_mm.utils.errors import UserError

# Beside the folder: its successor until that is complete, then itself until it is gone.
NAME_BESIDE = ".{name}.{token}.{kind}"
PATTERN_BESIDE = r"\.{name}\.[0-9a-f]{{16}}\.(partial|retired)"


def require_replaceable(folder: Path, files: set[Path] | None) -> None:
    """Check that a folder may be deleted: it is not there, empty, or ours in full.

    Args:
        folder: what is to give way.
        files: all that the tool has written there, below the folder; None if that
            cannot be told, as without a manifest.

    Raises:
        UserError: naming the first file that is missing or of something else.
    """
    if not folder.exists():
        return
    found = {path.relative_to(folder) for path in folder.rglob("*")}
    reason = None
    if not folder.is_dir():
        reason = "it is a file"
    elif found and files is None:
        reason = "it has no manifest of this tool"
    elif found and (missing := files - found):
        reason = f"{min(missing)} is missing"
    elif found:
        folders = {parent for file in files for parent in file.parents}
        if others := found - files - folders:
            reason = f"{min(others)} is of something else"
    if reason:
        raise UserError(
            f"{folder} must be new, empty or just as this tool left it, and {reason}; "
            "move it elsewhere or name another folder"
        )


def replace_folder(
    folder: Path, write: Callable[[Path], None], require: Callable[[], None]
) -> None:
    """Write a complete folder beside ``folder``, then put it in place by a rename.

    Killing the process at any moment leaves the old folder, the new one, or none, and
    an error of ``write`` the old one alone. No other process may do the same at the
    same time.

    Args:
        folder: what to replace; it need not exist.
        write: fills a new folder.
        require: raises if the old one may not be deleted; called once before the work,
            and again after it, since there was time to put something there.
    """
    require()
    for path in folder.parent.iterdir():  # what killed processes left
        pattern = PATTERN_BESIDE.format(name=re.escape(folder.name))
        if re.fullmatch(pattern, path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    partial, retired = (
        folder.with_name(
            NAME_BESIDE.format(name=folder.name, token=secrets.token_hex(8), kind=kind)
        )
        for kind in ("partial", "retired")
    )
    try:
        write(partial)
        require()
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(retired)
    partial.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)
