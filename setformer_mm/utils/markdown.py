"""Tables in Markdown, and numbers in them."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is legible as it is: first column left, others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))
        return "| " + " | ".join((first, *rest)) + " |"

    return "\n".join(map(line, (header, rule, *rows)))


def three_digits(number: float) -> str:
    """``0.0123``, ``1.23``, ``123``, ``12345``."""
    if number >= 99.95:  # "#" would leave a point at the end
        return f"{number:.0f}"
    return f"{number:#.3g}"
