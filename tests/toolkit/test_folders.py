"""Folders are replaced as a whole, and nothing of anybody else's with them."""

from pathlib import Path

import pytest

from setformer_mm.utils.errors import UserError
from toolkit.folders import replace_folder, require_replaceable

FILES = {Path("manifest"), Path("a/1"), Path("a/b/2")}


def fill(folder: Path, text: str = "new") -> None:
    for file in FILES:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, "utf-8")


def texts(folder: Path) -> set[str]:
    return {(folder / file).read_text("utf-8") for file in FILES}


def allow() -> None:
    pass


@pytest.mark.parametrize(
    ("change", "files", "reason"),
    [
        (lambda path: path.touch(), None, "it is a file"),
        (fill, None, "it has no manifest"),
        (fill, set(), "a is of something"),
        (lambda path: fill(path) or (path / "a/1").unlink(), FILES, "a/1 is missing"),
        (
            lambda path: fill(path) or (path / "a/3").touch(),
            FILES,
            "a/3 is of something",
        ),
        (lambda path: fill(path) or (path / "c").mkdir(), FILES, "c is of something"),
        (
            lambda path: fill(path) or (path / "link").symlink_to(path.parent),
            FILES,
            "link is of something else",
        ),
    ],
)
def test_what_must_stay(tmp_path, change, files, reason):
    folder = tmp_path / "data"
    change(folder)
    with pytest.raises(
        UserError, match=f"data must be new, .* and {reason}.*; move it"
    ):
        require_replaceable(folder, files)


def test_what_may_go(tmp_path):
    folder = tmp_path / "data"
    require_replaceable(folder, None)
    folder.mkdir()
    require_replaceable(folder, None)
    fill(folder)
    require_replaceable(folder, FILES)


@pytest.mark.parametrize("before", [None, "empty", "full"])
def test_replaced(tmp_path, before):
    folder = tmp_path / "data"
    if before:
        folder.mkdir()
    if before == "full":
        fill(folder, "old")
    replace_folder(folder, fill, allow)
    assert texts(folder) == {"new"}
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_one_alone(tmp_path, error):
    folder = tmp_path / "data"
    fill(folder, "old")

    def fail(path: Path) -> None:
        fill(path)
        raise error

    with pytest.raises(error):
        replace_folder(folder, fail, allow)
    assert texts(folder) == {"old"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_put_there_during_the_work_is_kept(tmp_path):
    folder = tmp_path / "data"
    fill(folder, "old")

    def write(path: Path) -> None:
        fill(path)
        (folder / "thesis").write_text("years of work", "utf-8")

    with pytest.raises(UserError, match="thesis is of something else"):
        replace_folder(folder, write, lambda: require_replaceable(folder, FILES))
    assert (folder / "thesis").exists() and texts(folder) == {"old"}
    assert list(tmp_path.iterdir()) == [folder]


def test_only_what_killed_runs_left_is_cleared(tmp_path):
    token = "0123456789abcdef"
    left = [f".data.{token}.partial", f".data.{token}.retired"]
    others = [
        ".data.partial",
        ".data.retired",
        f".other.{token}.partial",
        "data.partial",
    ]
    for name in left + others:
        (tmp_path / name).mkdir()
    (tmp_path / f".data.{token[::-1]}.partial").touch()
    others.append(f".data.{token[::-1]}.partial")
    replace_folder(tmp_path / "data", fill, allow)
    assert {path.name for path in tmp_path.iterdir()} == {"data", *others}
