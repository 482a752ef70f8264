"""Tables and numbers for documents."""

import pytest

from setformer_mm.utils.markdown import markdown_table, three_digits


def test_table_is_aligned_markdown():
    assert markdown_table(("", "b"), [["first", "1"], ["x", "22.5"]]) == (
        "|       |    b |\n"
        "| ----- | ---: |\n"
        "| first |    1 |\n"
        "| x     | 22.5 |"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.01234, "0.0123"), (1.2, "1.20"), (99.96, "100"), (12345.6, "12346")],
)
def test_numbers_have_three_digits(number, text):
    assert three_digits(number) == text
