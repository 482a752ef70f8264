"""tools/make_listops.py: its file, and mistakes in its flags."""

from random import Random

import pytest

from make_listops import DEEPEST
from setformer_mm.data.listops import listops, random_expression
from setformer_mm.utils.errors import UserError


def test_a_file_and_the_one_that_goes_on(tool, tmp_path):
    flags = ["--max-length", "40", "--max-depth", "4", "--max-args", "5", "--seed", "7"]
    tool("make_listops", tmp_path / "train.tsv", "--count", "20", *flags)
    tool("make_listops", tmp_path / "val.tsv", "--count", "5", "--skip", "20", *flags)
    lines = []
    for name, count in (("train", 20), ("val", 5)):
        header, *of_file = (tmp_path / f"{name}.tsv").read_text().splitlines()
        assert header == "Source\tTarget" and len(of_file) == count
        lines += of_file
    expected = listops(25, 7, 20, 40, max_depth=4, max_args=5)
    assert lines == [f"{source}\t{value}" for source, value in expected]


def test_python_can_draw_the_deepest_trees():
    """The stack holds a chain of lists; it would not hold one four times as deep."""
    chain = Random()
    chain.random = lambda: 0.0
    assert random_expression(chain, DEEPEST, 2, 5000) is None
    with pytest.raises(RecursionError):
        random_expression(chain, 4 * DEEPEST, 2, 5000)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "0"], "--count must be positive"),
        (["--max-args", "1"], "must be at least 2"),
        (["--max-depth", "301"], "--max-depth 2 to 300, got 10 and 301"),
        (["--min-length", "9", "--max-length", "8"], "got 9 and 8"),
        (["--max-length", "3"], "lengths must be 4 or more"),
        (["--max-depth", "2", "--max-args", "5"], "no sequence of depth 2 with 5"),
    ],
)
def test_mistakes_in_flags(tool, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        tool("make_listops", tmp_path / "out.tsv", *flags)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_a_file(tool, tmp_path):
    with pytest.raises(UserError, match="OUT.tsv names a file"):
        tool("make_listops", tmp_path)
