"""Whether results can be written, asked before the work that they are of."""

import errno
import os
import os.path as osp
from collections.abc import Iterable

from setformer_mm.utils.errors import UserError

# In bytes, on nearly all disks; in folders yet to be made none can be asked.
LONGEST_NAME = 255
FIGURES = ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg", ".eps"


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
    require_short_names([path], what)
    require_writable_folder(osp.dirname(osp.abspath(path)), what)


def require_short_names(paths: Iterable[str | os.PathLike], what: str) -> None:
    """Check that the disk takes the names of files.

    Raises:
        UserError: naming the first that is too long for it.
    """
    for path in paths:
        names = os.fsencode(path).split(os.fsencode(os.sep))
        is_too_long = max(map(len, names)) > LONGEST_NAME
        try:
            os.lstat(path)
        except OSError as error:  # the whole path, and names on other disks
            is_too_long |= error.errno == errno.ENAMETOOLONG
        if is_too_long:
            raise UserError(f"{what} has too long a name: {path}")


def require_writable_figure(path: str | os.PathLike, what: str) -> None:
    """Check that a figure can be written: the file, and in the format of its suffix.

    Raises:
        UserError: as :func:`require_writable_file`, or for a suffix that is none of
            :data:`FIGURES`; no suffix stands for PNG.
    """
    if osp.splitext(path)[1].lower() not in ("", *FIGURES):
        raise UserError(f"{what} must end in {', '.join(FIGURES)}, got {path}")
    require_writable_file(path, what)


def require_sources_kept(
    sources: Iterable[str | os.PathLike],
    targets: Iterable[str | os.PathLike],
    folders: Iterable[str | os.PathLike] = (),
) -> None:
    """Check that a tool does not write over data or among them, by whatever path.

    Args:
        sources: of files that are read.
        targets: of files that will be written.
        folders: of data, which may take any file for one of them.

    Raises:
        UserError: naming the first file that would be lost or be in the way.
    """
    targets = list(targets)
    kept = tuple(osp.join(osp.realpath(folder), "") for folder in folders)
    for folder in dict.fromkeys(osp.dirname(path) for path in targets):
        if osp.join(osp.realpath(folder), "").startswith(kept):
            raise UserError(f"{folder} is for data; name another place to write")
    existing = [path for path in targets if osp.exists(path)]
    if not existing:
        return  # as nearly always; then sources need no look
    read = {_identity(path) for path in sources if osp.exists(path)}
    for path in existing:
        if _identity(path) in read or osp.realpath(path).startswith(kept):
            raise UserError(
                f"{path} is read and would be written over; name another place to write"
            )


def _identity(path: str | os.PathLike) -> tuple[int, int]:
    """Equal for all paths of one file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
