"""Atomic writing."""

import os

import pytest

from setformer_mm.utils.files import remove_partial_files, write_atomically


def test_writes_bytes_and_text_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b"
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    write_atomically(str(path), "é")
    assert path.read_text(encoding="utf-8") == "é"
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
