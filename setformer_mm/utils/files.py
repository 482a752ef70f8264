"""Files that are either complete or not there at all, and sections inside of them."""

import errno
import io
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import torch

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a file is called until it is complete; only a killed process leaves one behind.
# The random part keeps writers apart, the name of the project other programs' files.
PARTIAL_NAME = "{name}.setformer_mm-{token}.partial"
MOST_OF_NAME = 80  # bytes of the name; some file systems have 143 for the whole
PARTIAL_PATTERN = re.compile(r".+\.setformer_mm-[0-9a-f]{16}\.partial")

# Of file systems on which a file or a folder cannot be synced, or not by this user.
CANNOT_SYNC = {
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
    *(errno.EBADF, errno.EACCES, errno.EPERM),
}


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that no reader ever sees half of it.

    The bytes reach the disk under another name in the same folder (a rename is atomic
    only inside one file system) before they take the place of the old file. Killing
    the process, or the machine, at any moment leaves either the old or the new file;
    so do several processes that write the same file. An error, as that of a full disk,
    leaves nothing else behind.

    Args:
        path: where to write; missing folders are made, a link is followed. An old file
            lends owner, group and mode, as far as this user may give them. What is
            there and is no file, as ``/dev/stdout``, is written to and stays.
        content: the whole file; a string is written as UTF-8.
    """
    path = Path(path)
    if isinstance(content, str):
        # File names that are no text in the locale hold such escapes.
        content = content.encode("utf-8", "surrogateescape")
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    file, partial = _open_partial(path)
    try:
        with file:
            file.write(content)
            file.flush()
            _sync(file.fileno())
            _keep_permissions(path, partial)
            if fcntl is None:  # Windows, which renames closed files only
                file.close()
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def save_figure(figure: "Figure", path: str | os.PathLike, dpi: int = 150) -> None:
    """Write a picture as :func:`write_atomically` does.

    Args:
        figure: what to draw.
        path: where to write; its suffix says the format, PNG if it has none.
        dpi: pixels an inch.
    """
    kind = Path(path).suffix.lower().removeprefix(".") or "png"
    quality = dict(pil_kwargs=dict(quality=85)) if kind in ("jpg", "jpeg") else {}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, **quality)
    write_atomically(path, buffer.getvalue())


def save_checkpoint(checkpoint: dict, path: str | os.PathLike) -> bytes:
    """Write what ``torch.load`` reads as :func:`write_atomically` does.

    Args:
        checkpoint: what to write.
        path: where to write.

    Returns:
        The whole file.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = buffer.getvalue()
    write_atomically(path, content)
    return content


def remove_partial_files(folder: str | os.PathLike) -> list[Path]:
    """Delete what killed writers left in ``folder`` and return the deleted paths.

    Only files that :func:`write_atomically` named, and that nobody is writing.
    """
    removed = []
    for path in sorted(Path(folder).glob("*.partial")):
        if not PARTIAL_PATTERN.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            with open(path, "r+b") as file:
                if _try_to_lock(file):
                    path.unlink()
                    removed.append(path)
        except OSError:  # it is complete by now, or somebody else's
            continue
    return removed


def replace_section(text: str, begin: str, end: str, section: str) -> str:
    """Replace what stands between two marks, which stay.

    Args:
        text: the whole document.
        begin: the mark before the section.
        end: the mark after it.
        section: what stands between them from now on, an empty line before and after.

    Raises:
        ValueError: if the marks are not there, once each, in this order.
    """
    before, *rest = text.split(begin)
    _, *after = "".join(rest).split(end)
    if len(rest) != 1 or len(after) != 1:
        raise ValueError(f"the document must have {begin!r} and {end!r} once each")
    return f"{before}{begin}\n\n{section.strip()}\n\n{end}{after[0]}"


def _open_partial(path: Path) -> tuple[BinaryIO, Path]:
    """Make a file of a new name beside ``path`` and lock it, which says it is in use.

    The kernel takes the lock back when the writer ends, however it ends; a number of
    its process would say nothing on another machine, or to a later process of that
    number.
    """
    while True:
        token = secrets.token_hex(8)
        # A long name would be too long with more behind it.
        name = os.fsencode(path.name)[:MOST_OF_NAME].decode(errors="ignore")
        partial = path.with_name(PARTIAL_NAME.format(name=name, token=token))
        file = open(partial, "xb")
        if _try_to_lock(file) is not False and partial.exists():
            return file, partial
        file.close()  # a cleaning was quicker than the lock


def _keep_permissions(old: Path, new: Path) -> None:
    """Give a file owner, group and mode of another, where that is there."""
    try:
        found = old.stat()
    except OSError:
        return
    with suppress(AttributeError, OSError):  # Windows has no owners
        os.chown(new, found.st_uid, found.st_gid)
    with suppress(OSError):
        os.chmod(new, stat.S_IMODE(found.st_mode))


def _try_to_lock(file: IO) -> bool | None:
    """Lock an open file against all other openings of it, without waiting.

    Returns:
        True if it is locked now, False if another opening has it locked, None if that
        cannot be told on this system.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sync(descriptor: int) -> None:
    """Wait until the bytes are on the disk, where the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (POSIX asks for this apart)."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in CANNOT_SYNC:
            return
        raise
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
