"""Atomic writing, and sections between marks."""

import errno
import os
import random
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from setformer_mm.utils import files
from setformer_mm.utils.files import (
    PARTIAL_NAME,
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


@pytest.mark.parametrize(
    ("name", "beginning"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_drawing_of_lines(tmp_path, name, beginning):
    save_figure(Figure(figsize=(3, 2)), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(beginning)


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


# Where the writing of a file can end.
MOMENTS = [("fsync", errno.ENOSPC), ("replace", errno.EACCES), ("fsync", None)]


@pytest.mark.parametrize(("moment", "number"), MOMENTS)
def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, moment, number
):
    """A full disk, no permission, Ctrl-C."""
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(*args):
        raise KeyboardInterrupt if number is None else OSError(number, "")

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(KeyboardInterrupt if number is None else OSError):
        write_atomically(path, "new")
    assert path.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_disk_that_is_full_at_the_first_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "setformer_mm.utils.files.open",
        lambda path, mode: open(path, mode) and open("/dev/full", "wb"),
        raising=False,
    )
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"0" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_threads_that_write_one_file_leave_it_whole(tmp_path):
    """And cleanings meanwhile do not get in their way."""
    path = tmp_path / "file"
    contents = [bytes([65 + i]) * random.randint(1, 100_000) for i in range(8)]
    with ThreadPoolExecutor(10) as pool:
        writers = [
            pool.submit(write_atomically, path, content)
            for _ in range(10)
            for content in contents
        ]
        while not all(writer.done() for writer in writers):
            remove_partial_files(tmp_path)
    for writer in writers:
        writer.result()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def start_writer(path: Path) -> subprocess.Popen:
    """A process that stops when half of the file is on the disk."""
    code = f"""
import os, sys, types
# Of the package these two modules alone, whose import takes no seconds.
sys.modules["torch"] = types.ModuleType("torch")
import runpy
module = runpy.run_path({files.__file__!r})
os.fsync = lambda descriptor: print("half", flush=True) or sys.stdin.read()
module["write_atomically"]({str(path)!r}, b"new")
"""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    writer = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert writer.stdout.readline() == b"half\n"
    return writer


def test_only_what_killed_writers_left_is_removed(tmp_path):
    path = tmp_path / "epoch_1.pth"
    foreign = {
        tmp_path / "film.mkv.partial",
        tmp_path / "epoch_1.pth.partial",
        tmp_path / f"{PARTIAL_NAME.format(name='', token='0' * 16)}.bak",
    }
    for other in foreign:
        other.touch()
    alive, killed = start_writer(path), start_writer(path)
    killed.kill(), killed.wait()
    unfinished = set(tmp_path.iterdir()) - foreign
    assert len(unfinished) == 2
    (removed,) = remove_partial_files(tmp_path)
    assert removed in unfinished and not removed.exists()
    assert remove_partial_files(tmp_path) == []
    alive.communicate()  # goes on to the end
    assert alive.returncode == 0 and path.read_bytes() == b"new"
    assert set(tmp_path.iterdir()) == foreign | {path}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_folders_that_cannot_be_synced(tmp_path, monkeypatch, number):
    sync = os.fsync

    def sync_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_files)
    write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text("utf-8") == "new"


def test_a_disk_that_fails_is_not_passed_over(tmp_path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_links_stay_links(tmp_path):
    target = tmp_path / "elsewhere" / "file"
    target.parent.mkdir()
    (tmp_path / "link").symlink_to(target)
    for text in ("old", "new"):
        write_atomically(tmp_path / "link", text)
        assert target.read_text("utf-8") == text
    assert (tmp_path / "link").is_symlink()
    assert list(target.parent.iterdir()) == [target]


def test_what_is_no_file_is_written_to_and_stays(tmp_path):
    # A pipe stands for all of them: a fault must not cost the machine its /dev/null.
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "ours", "")
    (tmp_path / "any").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_permissions_of_the_old_file_stay(tmp_path, mode):
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    write_atomically(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("letter", ["a", "\u00e9"])
def test_the_longest_name(tmp_path, letter):
    name = letter * (255 // len(letter.encode()))
    write_atomically(tmp_path / name, "new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_names_that_are_no_text_in_the_locale(tmp_path):
    """As of last_checkpoint, which holds a path."""
    name = os.fsdecode(b"/data/\xff/epoch_1.pth")
    write_atomically(tmp_path / "file", name)
    assert (tmp_path / "file").read_bytes() == b"/data/\xff/epoch_1.pth"


def test_section_is_replaced_and_its_marks_stay():
    text = "# Title\n<here>old\n<there>\nLicence\n"
    expected = "# Title\n<here>\n\nnew\nlines\n\n<there>\nLicence\n"
    assert replace_section(text, "<here>", "<there>", "new\nlines\n") == expected
    assert replace_section(expected, "<here>", "<there>", "new\nlines") == expected


@pytest.mark.parametrize("marks", ["", "<here>", "<there><there>", "<there><here>"])
def test_marks_must_be_there(marks):
    with pytest.raises(ValueError, match="once each"):
        replace_section(f"# Title\n{marks}\n", "<here>", "<there>", "figures")
