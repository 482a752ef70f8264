"""Atomic writing, and sections between marks."""

import os

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from setformer_mm.utils.files import (
    remove_partial_files,
    replace_section,
    save_checkpoint,
    save_figure,
    write_atomically,
)


def test_writes_bytes_and_text_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b"
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    write_atomically(str(path), "é")
    assert path.read_text(encoding="utf-8") == "é"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name, kind", [("a.png", "PNG"), ("b.jpg", "JPEG")])
def test_picture_in_a_new_folder(tmp_path, name, kind):
    path = tmp_path / "new" / name
    save_figure(Figure(figsize=(3, 2)), path, dpi=50)
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == (kind, (150, 100))
    assert list(path.parent.iterdir()) == [path]


def test_checkpoint_is_what_is_returned(tmp_path):
    path = tmp_path / "new" / "a.pth"
    content = save_checkpoint(dict(meta=dict(epoch=3), weight=torch.arange(4)), path)
    assert path.read_bytes() == content
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["meta"] == dict(epoch=3)
    assert checkpoint["weight"].tolist() == [0, 1, 2, 3]
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert remove_partial_files(tmp_path) == [tmp_path / "file.partial"]
    assert list(tmp_path.iterdir()) == [path]


def test_section_is_replaced_and_its_marks_stay():
    text = "# Title\n<here>old\n<there>\nLicence\n"
    expected = "# Title\n<here>\n\nnew\nlines\n\n<there>\nLicence\n"
    assert replace_section(text, "<here>", "<there>", "new\nlines\n") == expected
    assert replace_section(expected, "<here>", "<there>", "new\nlines") == expected


@pytest.mark.parametrize("marks", ["", "<here>", "<there><there>", "<there><here>"])
def test_marks_must_be_there(marks):
    with pytest.raises(ValueError, match="once each"):
        replace_section(f"# Title\n{marks}\n", "<here>", "<there>", "figures")
