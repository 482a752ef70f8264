"""Pictures from files: read as in training and testing, or refused by name."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically

# What can be read and written; any other suffix is refused before it is tried.
SUFFIXES = (
    *(".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff"),
    ".webp",
)
# Pillow's names of pixels that have no range of values that shows as 8 bits.
WITHOUT_RANGE = {"F": "floating-point", "I": "32-bit integer"}


class UnreadablePicture(UserError):
    """Why a file cannot be used as a picture, in one sentence."""


def find_pictures(
    paths: Sequence[str | os.PathLike], leave_out: Sequence[str | os.PathLike] = ()
) -> dict[Path, Path]:
    """Replace folders by the pictures in them and below.

    Args:
        paths: of files and folders.
        leave_out: folders whose pictures do not count, as those of drawings.

    Returns:
        ``{file: its path from the folder that all of paths have in common}``, each file
        once.

    Raises:
        UserError: if a path does not exist or has no suffix of a picture, or there is
            no picture at all.
    """
    given = [Path(os.path.abspath(path)) for path in paths]
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            files = sorted(path.rglob("*"))
            found += [f for f in files if f.suffix.lower() in SUFFIXES and f.is_file()]
        elif not path.is_file():
            raise UserError(f"the picture {path} does not exist")
        elif path.suffix.lower() not in SUFFIXES:
            raise UserError(f"pictures end in {', '.join(SUFFIXES)}, got {path}")
        else:
            found.append(path)
    # A folder that was given counts by whatever name.
    left_out = {_real(folder) for folder in leave_out} - {_real(path) for path in given}
    found = [path for path in found if left_out.isdisjoint(_real(path).parents)]
    if not found:
        raise UserError(f"there are no pictures in {', '.join(map(str, paths))}")
    root = os.path.commonpath([p if p.is_dir() else p.parent for p in given])
    return {path: path.relative_to(root) for path in found}


def _real(path: str | os.PathLike) -> Path:
    return Path(os.path.realpath(path))


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Read a picture from a file; see :func:`decode_picture`.

    Raises:
        UnreadablePicture: naming the file and what is wrong with it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UnreadablePicture(f"{path}: {error.strerror}") from error
    return decode_picture(content, path)


def decode_picture(
    content: bytes, name: str | os.PathLike, max_pixels: int | None = None
) -> np.ndarray:
    """Decode a picture as OpenMMLab's libraries do, after a closer look than theirs.

    They take a truncated file for one with a grey rest, and give up at others without
    saying which. Pictures of 16 bits are scaled to 8, grey ones get three equal
    channels, palettes their colours; alpha is dropped; EXIF's orientation is applied.

    Args:
        content: of a whole file.
        name: of the file, for errors.
        max_pixels: of a picture that is decoded; None leaves that to Pillow.

    Returns:
        Of shape ``(height, width, 3)``, uint8, in the order blue, green, red.

    Raises:
        UnreadablePicture: naming the file and what is wrong with it.
    """
    if not content:
        raise UnreadablePicture(f"{name} is empty")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            mode, (width, height) = picture.mode, picture.size
            if max_pixels is not None and width * height > max_pixels:
                raise UnreadablePicture(
                    f"{name} has {width} x {height} pixels, more than "
                    f"{max_pixels / 1e6:g} million; make it smaller"
                )
            picture.load()
        array = mmcv.imfrombytes(content)
    except UnreadablePicture:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadablePicture(f"{name} is no picture that Pillow reads") from error
    except Exception as error:  # of any type: damaged bytes mean anything
        reason = " ".join(str(error).split())
        raise UnreadablePicture(f"{name} cannot be decoded: {reason}") from error
    if mode in WITHOUT_RANGE:
        raise UnreadablePicture(
            f"{name} has {WITHOUT_RANGE[mode]} pixels; convert them to 8 or 16 bits"
        )
    if array is None:
        raise UnreadablePicture(f"{name} is of a kind that OpenCV does not read")
    return array


def save_picture(picture: np.ndarray, path: str | os.PathLike) -> None:
    """Write a picture as :func:`~setformer_mm.utils.files.write_atomically` does.

    Args:
        picture: of shape ``(height, width, 3)`` in the order red, green, blue, or
            ``(height, width)``; uint8.
        path: where to write; its suffix, one of :data:`SUFFIXES`, says the format.
    """
    kind = Image.registered_extensions()[Path(path).suffix.lower()]
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, quality=95)  # of kinds that have it
    write_atomically(path, buffer.getvalue())
