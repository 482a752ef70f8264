"""Whether results can be written, asked before the work that they are of."""

import os
import os.path as osp

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


def require_another_file(source: str, target: str) -> None:
    """Check that a tool does not write over what it reads.

    Raises:
        UserError: if both are one file.
    """
    if osp.realpath(source) == osp.realpath(target):
        raise UserError(f"{target} is the source itself; name another file to write")
