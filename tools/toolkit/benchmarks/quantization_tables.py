"""The table of a classifier in INT8 and other precisions."""

from statistics import median

from setformer_mm.utils.markdown import markdown_table, three_digits

from ..timing import ratio
from .reporting import describe


def render(result: dict) -> str:
    """The table as Markdown, with what it was measured on."""
    records = result["records"]
    batches = list(records[0]["times"])
    header = ["precision", "top-1, %", "other answers", "MB"]
    header += [f"{_pictures(int(batch))}, ms" for batch in batches]
    rows = []
    for record in records:
        cells = [
            record["precision"],
            f"{record['accuracy']:.2f}",
            str(record["other_answers"]),
            f"{record['bytes'] / 1e6:.2f}",
        ]
        for batch in batches:
            times = record["times"][batch]
            share = ratio(times, records[0]["times"][batch]).value
            cells.append(f"{three_digits(1000 * median(times))} ({share:.2f}×)")
        rows.append(cells)
    return "\n\n".join(
        [
            f"{describe(result['environment'])} {_pictures(result['pictures'])}; other "
            "answers are those that differ from float32's. Times are of a batch, and "
            "in brackets the ratio to the first row.",
            markdown_table(header, rows),
        ]
    )


def _pictures(count: int) -> str:
    return f"{count} picture" + "s" * (count != 1)
