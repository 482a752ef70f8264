"""Tables and picture of time and memory against the length of a sequence."""

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from setformer_mm.utils.markdown import markdown_table, three_digits

from ..benchmarks.reporting import describe

if TYPE_CHECKING:  # only pictures need it
    from matplotlib.figure import Figure


def milliseconds(record: dict, mixer: str) -> float | None:
    """The median time of a call; None if there is none."""
    times = record["times"].get(mixer)
    return None if times is None else 1000 * median(times)


def mebibytes(record: dict, mixer: str) -> float | None:
    """The peak of memory beyond inputs and results; None if there is none."""
    peak = record["peaks"].get(mixer)
    return None if peak is None else peak / 2**20


FIGURES = {"milliseconds": milliseconds, "MiB": mebibytes}


def render(result: dict) -> str:
    """All tables as Markdown."""
    parts = [describe(result["environment"])]
    for unit, figure in FIGURES.items():
        for direction in result["directions"]:
            records = [r for r in result["records"] if r["direction"] == direction]
            if any(figure(r, m) is not None for r in records for m in result["mixers"]):
                what = "Time" if unit == "milliseconds" else "Peak memory"
                parts += [
                    f"{what} of one sequence in {unit}, {direction}:",
                    _table(records, result["mixers"], figure),
                ]
    return "\n\n".join(parts)


def _table(
    records: list[dict],
    mixers: list[str],
    figure: Callable[[dict, str], float | None],
) -> str:
    rows = []
    for record in records:
        values = (figure(record, mixer) for mixer in mixers)
        cells = ("–" if value is None else three_digits(value) for value in values)
        rows.append([str(record["length"]), *cells])
    return markdown_table(["tokens", *mixers], rows)


def draw(result: dict) -> "Figure":
    """Time and memory against the length, a panel each, with both passes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, len(FIGURES))
    direction = result["directions"][-1]
    records = [r for r in result["records"] if r["direction"] == direction]
    for panel, (unit, value) in zip(panels, FIGURES.items()):
        for index, mixer in enumerate(result["mixers"]):
            points = {r["length"]: value(r, mixer) for r in records}
            points = {n: y for n, y in points.items() if y}
            width = 2.5 if mixer == "SeT" else 1.2
            if points:
                panel.loglog(
                    *zip(*points.items()),
                    ".-",
                    label=mixer,
                    color=f"C{index}",
                    linewidth=width,
                )
        panel.set_xlabel("tokens")
        panel.set_ylabel(f"{unit}, {direction}")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle(describe(result["environment"]), fontsize="small")
    return figure
