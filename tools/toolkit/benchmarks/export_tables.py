"""The table of engines that run exported models."""

from statistics import median

from setformer_mm.utils.markdown import markdown_table, three_digits

from ..timing import ratio
from .reporting import describe


def render(result: dict) -> str:
    """The tables as Markdown, one a model, with what it was measured on."""
    parts = [
        f"{describe(result['environment'])} One picture at a time; medians over rounds "
        "in turn, and in brackets the ratio to the first row. Differences are the "
        "largest of logits, as a share of the largest."
    ]
    for model in result["models"]:
        has_answers = model["records"][0]["accuracy"] is not None
        header = ["engine", "ms", "difference", "MB"]
        header += ["top-1, %", "other answers"] * has_answers
        first = model["records"][0]["times"]
        rows = []
        for record in model["records"]:
            times, size = record["times"], record["bytes"]
            row = [
                record["engine"],
                f"{three_digits(1000 * median(times))} "
                f"({ratio(times, first).value:.2f}×)",
                f"{record['difference']:.1e}",
                "" if size is None else f"{size / 1e6:.2f}",
            ]
            if has_answers:
                row += [f"{record['accuracy']:.2f}", str(record["other_answers"])]
            rows.append(row)
        parts += [f"{model['title']}:", markdown_table(header, rows)]
    return "\n\n".join(parts)
