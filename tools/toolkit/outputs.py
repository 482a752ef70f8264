"""Whether results can be written, asked before the work that they are of."""

import os
import os.path as osp
from collections.abc import Iterable
from pathlib import Path

from setformer_mm.utils.errors import UserError


def require_writable_folder(path: str | os.PathLike, what: str) -> None:
    """Check that a folder can be made, or written.

    Args:
        path: of the folder.
        what: the flag that names it, for the message.

    Raises:
        UserError: if a file is in the way, or the permission is not there.
    """
    existing = osp.abspath(path)
    while not osp.lexists(existing):
        existing = osp.dirname(existing)
    if not osp.isdir(existing):
        raise UserError(f"{what} names a folder, and {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{what} {path} cannot be written: no permission in {existing}")


def require_writable_file(path: str | os.PathLike, what: str) -> None:
    """Check that a file can be written; likewise.

    Raises:
        UserError: if it is a folder, or its folder cannot be written.
    """
    if osp.isdir(path):
        raise UserError(f"{what} names a file, and {path} is a folder")
    require_writable_folder(osp.dirname(osp.abspath(path)), what)


def require_writable_figure(path: str | os.PathLike, what: str) -> None:
    """Check that a figure can be written: the file, and in the format of its suffix.

    Raises:
        UserError: as :func:`require_writable_file`, or for another suffix.
    """
    from matplotlib.backend_bases import FigureCanvasBase  # which not all tools need

    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix and suffix not in (known := sorted(FigureCanvasBase.filetypes)):
        raise UserError(f"{what} must end in .{', .'.join(known)}, got {path}")
    require_writable_file(path, what)


def require_sources_kept(sources: Iterable[Path], targets: Iterable[Path]) -> None:
    """Check that a tool does not write over what it reads, by whatever path or link.

    Args:
        sources: of the files that are read.
        targets: of those that are written.

    Raises:
        UserError: naming the first file that is both.
    """
    existing = [path for path in targets if osp.exists(path)]
    if not existing:
        return  # as nearly always; then sources need no look
    read = {_identity(path) for path in sources if osp.exists(path)}
    for path in existing:
        if _identity(path) in read:
            raise UserError(
                f"{path} is read and would be written over; name another place to write"
            )


def _identity(path: Path) -> tuple[int, int]:
    """Equal for all paths of one file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
