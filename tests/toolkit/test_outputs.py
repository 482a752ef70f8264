"""Whether results can be written is known before the work."""

import os

import pytest

from setformer_mm.utils.errors import UserError
from toolkit.outputs import require_writable_file, require_writable_folder


def test_writable_places(tmp_path, monkeypatch):
    require_writable_folder(tmp_path / "a" / "b", "--out")
    require_writable_file(tmp_path / "a" / "b.json", "--json")
    with pytest.raises(UserError, match="--json names a file, and .* is a folder"):
        require_writable_file(tmp_path, "--json")
    monkeypatch.setattr(os, "access", lambda *_: False)  # a root user may everything
    with pytest.raises(UserError, match="cannot be written: no permission in"):
        require_writable_folder(tmp_path / "a", "--out")


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(UserError, match="--out names a folder, and .*file is a"):
            require_writable_folder(tmp_path / path, "--out")
    with pytest.raises(UserError, match="names a folder"):
        require_writable_file(tmp_path / "file" / "a.json", "--json")
