"""Docstrings as a task: what is read, masked, and kept apart."""

import ast
from pathlib import Path

import numpy as np
import pytest

from setformer_mm.data import docstrings as module
from setformer_mm.data.docstrings import (
    PASSAGE,
    docstrings,
    docstrings_of_file,
    folder_of,
    passages,
    plain,
    source_files,
)

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split()


def text(number: int) -> str:
    """A docstring of over 100 characters that shares no passage with others."""
    turned = [f"{word}{number}" for word in WORDS[number % 12 :] + WORDS[: number % 12]]
    return " ".join(turned)


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """Two packages, "python" and "numpy", of 40 files with two docstrings each."""
    monkeypatch.setattr(module, "PACKAGES", {"python": (), "numpy": ("np",)})
    folders = {name: tmp_path / name for name in ("python", "numpy")}
    monkeypatch.setattr(module, "folder_of", folders.get)
    for start, folder in zip((1000, 1080), folders.values()):
        folder.mkdir(parents=True)
        for number in range(start, start + 80, 2):
            (folder / f"file{number}.py").write_text(
                f'"""{text(number)}"""\ndef f():\n    """{text(number + 1)}"""\n'
            )
    return tmp_path


def test_parts_share_no_file_and_no_passage(installed):
    train, test = docstrings(8, 4, seed=3, max_bytes=200)
    assert len(train) == 16 and len(test) == 8
    for part, count in ((train, 8), (test, 4)):
        assert [label for _, label in part].count(0) == count
    known = {passage for text, _ in train for passage in passages(text)}
    assert not any(known & {*passages(text)} for text, _ in test)
    of_file = {text(n): n // 2 for n in range(1000, 1160)}
    assert not {of_file[t] for t, _ in train} & {of_file[t] for t, _ in test}


def test_the_same_seed_draws_the_same(installed):
    assert docstrings(8, 4, 3, 200) == docstrings(8, 4, 3, 200)
    assert docstrings(8, 4, 3, 200) != docstrings(8, 4, 4, 200)


def test_texts_that_occur_twice_are_left_out(installed):
    again = installed / "numpy" / "again.py"
    again.write_text(f'"""{text(1080)}"""')
    with pytest.raises(
        ValueError, match="90 docstrings of python .* there are [0-9]+;"
    ):
        docstrings(90, 1, 3, 200)
    every = [t for part in docstrings(8, 4, 3, 200) for t, _ in part]
    assert text(1080) not in every


def test_a_shared_passage_keeps_a_text_out_of_the_test(installed):
    shared = "the same words in a row, longer than any passage that both may have"
    assert len(shared) > PASSAGE
    folder = installed / "numpy"
    for number in range(1080, 1160, 2):
        (folder / f"file{number}.py").write_text(
            f'"""{shared} {text(number)}"""\ndef f():\n    """{text(number + 1)}"""\n'
        )
    train, test = docstrings(8, 2, 3, 300)
    assert any(shared in t for t, _ in train)
    assert not any(shared in t for t, _ in test)


def test_names_are_masked_and_spaces_counted_once():
    found = plain("NumPy's  np.array\n\n    is not nparray – Torch", 100)
    assert found == "_'s _.array is not nparray ? _"
    assert plain("word " * 50, 12) == "word word wo"


def test_all_kinds_of_docstrings_of_a_file(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""of module"""\nclass A:\n    """of class"""\n    def f(self):\n'
        '        """of function"""\nasync def g():\n    """of coroutine"""\n'
    )
    found = {*docstrings_of_file(path)}
    assert found == {"of module", "of class", "of function", "of coroutine"}
    path.write_text("print 'an older Python'")
    assert not [*docstrings_of_file(path)]


def test_tests_and_what_is_vendored_are_no_source(installed):
    folder = installed / "numpy"
    for name in ("tests/a.py", "_vendor/b.py", "test_c.py", "own/d.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    names = {path.name for path in source_files("numpy")}
    assert "d.py" in names and not names & {"a.py", "b.py", "test_c.py"}


def test_a_missing_package_is_named(installed):
    with pytest.raises(ValueError, match="docstrings need the package scipy"):
        source_files("scipy")


def test_packages_are_found_where_they_are_imported_from():
    assert folder_of("numpy") == Path(np.__file__).parent
    assert folder_of("python") == Path(ast.__file__).parent
    assert folder_of("no_such_package") is None
