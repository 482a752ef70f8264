"""Files that are either complete or not there at all, and sections inside of them."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Only a killed process leaves a file of this name behind.
PARTIAL_SUFFIX = ".partial"


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that no reader ever sees half of it.

    The bytes reach the disk under another name in the same folder (a rename is atomic
    only inside one file system) before they take the place of the old file. Killing
    the process, or the machine, at any moment leaves either the old or the new file.

    Args:
        path: where to write; missing folders are made.
        content: the whole file; a string is written as UTF-8.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    with open(partial, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _sync_folder(path.parent)


def save_figure(figure: "Figure", path: str | os.PathLike, dpi: int = 150) -> None:
    """Write a picture as :func:`write_atomically` does.

    Args:
        figure: what to draw.
        path: where to write; its suffix says the format, PNG if it has none.
        dpi: pixels an inch.
    """
    suffix = Path(path).suffix.lower()
    jpeg = suffix in (".jpg", ".jpeg")
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format=suffix.removeprefix(".") or "png",
        dpi=dpi,
        pil_kwargs=dict(quality=85) if jpeg else None,
    )
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
    """Delete what killed writers left in ``folder`` and return the deleted paths."""
    leftovers = sorted(Path(folder).glob(f"*{PARTIAL_SUFFIX}"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return leftovers


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


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (POSIX asks for this apart)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
