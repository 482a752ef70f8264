"""Whether results can be written is known before the work."""

import os

import pytest
from matplotlib.figure import Figure

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import save_figure
from toolkit.outputs import (
    FIGURES,
    require_writable_figure,
    require_writable_file,
    require_writable_folder,
)


def test_writable_places(tmp_path, monkeypatch):
    require_writable_folder(tmp_path / "a" / "b", "--out")
    require_writable_file(tmp_path / "a" / "b.json", "--json")
    with pytest.raises(UserError, match="--json names a file, and .* is a folder"):
        require_writable_file(tmp_path, "--json")
    monkeypatch.setattr(os, "access", lambda *_: False)  # a root user may everything
    with pytest.raises(UserError, match="cannot be written: no permission in"):
        require_writable_folder(tmp_path / "a", "--out")


@pytest.mark.parametrize("folder", [".", "missing"])
def test_a_name_that_is_too_long(tmp_path, folder):
    with pytest.raises(UserError, match="--json has too long a name"):
        require_writable_file(tmp_path / folder / f"{'ä' * 126}.json", "--json")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("link", f"{'ä' * 125}.json"):
        require_writable_file(tmp_path / folder / name, "--json")
    for path in (f"{'a' * 300}/../b.json", "/".join(["a" * 250] * 20)):
        with pytest.raises(UserError, match="--json has too long a name"):
            require_writable_file(f"{tmp_path}/{folder}/{path}", "--json")


@pytest.mark.parametrize("name", ["a.pgf", "a.txt", "a.PNG.rgba"])
def test_formats_of_figures(tmp_path, name):
    with pytest.raises(UserError, match=r"OUT must end in \.png, .*, got .*a\."):
        require_writable_figure(tmp_path / name, "OUT")
    for known in ("a", "a.PNG", *(f"a{suffix}" for suffix in FIGURES)):
        require_writable_figure(tmp_path / known, "OUT")
        save_figure(Figure(figsize=(1, 1)), tmp_path / known)


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(UserError, match="--out names a folder, and .*file is a"):
            require_writable_folder(tmp_path / path, "--out")
    with pytest.raises(UserError, match="names a folder"):
        require_writable_file(tmp_path / "file" / "a.json", "--json")
