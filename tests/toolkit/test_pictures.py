"""Pictures are read as training reads them, or refused by name."""

import io
import os
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from setformer_mm.utils.errors import UserError
from toolkit.pictures import (
    SUFFIXES,
    UnreadablePicture,
    find_pictures,
    read_picture,
    save_picture,
)

SHAPE = (20, 30)  # height, width


def pixels(*shape: int, high: int = 256, dtype=np.uint8) -> np.ndarray:
    return np.random.randint(0, high, shape or (*SHAPE, 3)).astype(dtype)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(content: bytes, name: str = "a.png") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(write, kind):
    deep = pixels(*SHAPE, high=65536, dtype=np.uint16)
    read = read_picture(write(encoded(Image.fromarray(deep), kind)))
    assert abs(read - deep[..., None] / 256).max() < 2
    deep = pixels(*SHAPE, 3, high=65536, dtype=np.uint16)
    _, content = cv2.imencode(f".{kind}", deep)
    assert abs(read_picture(write(content.tobytes())) - deep / 256).max() < 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_grey_transparent_and_palette_pictures(write, mode):
    picture = Image.fromarray(pixels()).convert(mode)
    read = read_picture(write(encoded(picture)))
    shown = picture.convert("L" if mode in ("L", "LA", "1") else "RGB").convert("RGB")
    assert np.array_equal(read, np.asarray(shown)[..., ::-1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_applied(write, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise
    bands = np.zeros((16, 32, 3), np.uint8)
    bands[:, :16] = 255
    read = read_picture(write(encoded(Image.fromarray(bands), kind, exif=exif)))
    assert read.shape == (32, 16, 3)
    assert read[:14].min() > 200 and read[18:].max() < 50


def test_bytes_become_what_the_host_libraries_make_of_them(write):
    path = write(encoded(Image.fromarray(pixels()), "JPEG"), "a.jpg")
    assert np.array_equal(read_picture(path), mmcv.imread(str(path)))


def float_tiff() -> bytes:
    return encoded(Image.fromarray(np.zeros(SHAPE, np.float32)), "TIFF")


def float_colour_tiff() -> bytes:
    return cv2.imencode(".tiff", np.zeros((*SHAPE, 3), np.float32))[1].tobytes()


def half(kind: str) -> bytes:
    content = encoded(Image.fromarray(pixels()), kind)
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"", "is empty"),
        (lambda: b"<html>404</html>", "is no picture"),
        (lambda: b"\0\5\x16\7" + bytes(80), "is no picture"),  # ._a.jpg of macOS
        (lambda: half("PNG"), "cannot be decoded: .*[Tt]runcated"),
        (lambda: half("JPEG"), "cannot be decoded: .*[Tt]runcated"),
        (float_tiff, "has floating-point pixels; convert them to 8 or 16 bits"),
        (float_colour_tiff, "is no picture"),
    ],
)
def test_what_is_refused(write, content, reason):
    path = write(content(), "._a.jpg")
    with pytest.raises(UnreadablePicture, match=rf"/\._a\.jpg {reason}") as error:
        read_picture(path)
    assert "\n" not in str(error.value)


def test_more_pixels_than_a_decoder_takes(write, monkeypatch):
    path = write(encoded(Image.fromarray(pixels())))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadablePicture, match="cannot be decoded: .* exceeds limit"):
        read_picture(path)
    monkeypatch.undo()

    def fail(content: bytes):
        raise cv2.error("too large\n for OpenCV")

    monkeypatch.setattr(mmcv, "imfrombytes", fail)
    with pytest.raises(UnreadablePicture, match="decoded: too large for OpenCV"):
        read_picture(path)


def test_file_that_may_not_be_read_or_is_gone(tmp_path):
    with pytest.raises(UnreadablePicture, match="a.png: No such file"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 3)])
def test_whatever_is_found_can_be_written(tmp_path, suffix, shape):
    path = tmp_path / "new" / f"a{suffix.upper()}"
    save_picture(np.full(shape, 77, np.uint8), path)
    assert abs(read_picture(path).astype(int) - 77).max() <= 1
    assert list(path.parent.iterdir()) == [path]


def test_paths_below_a_folder_stay_apart(tmp_path):
    names = ["x.png", "a/x.png", "a/b/x.JPG", "a/x.jpg"]
    for name in [*names, "notes.txt", "out/vis/x.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_pictures([tmp_path], leave_out=[tmp_path / "out" / "vis"])
    assert found == {tmp_path / name: Path(name) for name in names}
    # Several arguments: from what they have in common.
    found = find_pictures([tmp_path / "a" / "b", tmp_path / "x.png", tmp_path / "a"])
    assert {str(path) for path in found.values()} == set(names)
    assert find_pictures([tmp_path / "a" / "x.png"]).popitem()[1] == Path("x.png")


def test_relative_arguments(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    monkeypatch.chdir(tmp_path)
    for given in ("a", "./a", "a/../a/x.png", os.curdir):
        (relative,) = find_pictures([given]).values()
        assert relative == Path("a/x.png" if given == os.curdir else "x.png")


def test_mistakes_in_arguments(tmp_path):
    (tmp_path / "photo.heic").touch()
    with pytest.raises(UserError, match="there are no pictures in"):
        find_pictures([tmp_path])
    with pytest.raises(UserError, match="pictures end in .bmp, .*, got .*photo.heic"):
        find_pictures([tmp_path / "photo.heic"])
    with pytest.raises(UserError, match="none.png does not exist"):
        find_pictures([tmp_path / "none.png"])
