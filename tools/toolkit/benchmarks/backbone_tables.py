"""Tables and picture of what ``tools/bench_backbone.py`` measures."""

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from setformer_mm.utils.markdown import markdown_table, three_digits

from .backbones import Setting
from .reporting import describe, versus

if TYPE_CHECKING:  # only pictures need it
    from matplotlib.figure import Figure


def render(result: dict) -> str:
    """All tables as Markdown."""
    parts = [
        describe(result["environment"]),
        "Images a second (medians):",
        cells_table(result, images_a_second),
        headline(result),
    ]
    if any(record["peaks"] for record in result["records"]):
        parts += [
            "Peak memory beyond weights, images and outputs, in MiB:",
            cells_table(result, memory),
        ]
    notes = [f"- not available: {n}: {why}" for n, why in result["missing"].items()]
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def headline(result: dict) -> str:
    """The second table, whose ratios are what counts, under its title."""
    title = (
        f"Speed relative to {result['baseline']} (ratios of medians; in brackets, of "
        "opposite quartiles):"
    )
    return f"{title}\n\n{cells_table(result, relative_speed)}"


def cells_table(result: dict, cell: Callable[[dict, dict, str], str]) -> str:
    """A row a model, a column a setting."""
    header = ["", "parameters"]
    header += [str(Setting(**record["setting"])) for record in result["records"]]
    rows = []
    for name, parameters in result["parameters"].items():
        row = [name, f"{parameters / 1e6:.1f} M"]
        for record in result["records"]:
            row.append(cell(result, record, name) if name in record["times"] else "")
        rows.append(row)
    return markdown_table(header, rows)


def images_a_second(result: dict, record: dict, name: str) -> str:
    """A cell of the first table."""
    batch = record["setting"]["batch"]
    return three_digits(batch / median(record["times"][name]))


def relative_speed(result: dict, record: dict, name: str) -> str:
    """A cell of the second table."""
    times, baseline = record["times"], result["baseline"]
    return versus(times, baseline, name) if baseline in times else ""


def memory(result: dict, record: dict, name: str) -> str:
    """A cell of the third table."""
    peak = record["peaks"].get(name)
    return "" if peak is None else f"{peak / 2**20:.0f}"


def draw(result: dict) -> "Figure":
    """Images a second as bars, a panel a setting."""
    from matplotlib.figure import Figure

    records = result["records"]
    names = list(result["parameters"])[::-1]
    figure = Figure(
        figsize=(12, 1.5 + 0.25 * len(names) * -(-len(records) // 2)),
        layout="constrained",
    )
    panels = figure.subplots(-(-len(records) // 2), 2, squeeze=False, sharey=True)
    for panel, record in zip(panels.flat, records):
        setting = Setting(**record["setting"])
        times = record["times"]
        speeds = [
            setting.batch / median(times[name]) if name in times else 0
            for name in names
        ]
        colors = [
            "tab:red" if name.startswith("setformer") else "tab:gray" for name in names
        ]
        bars = panel.barh(names, speeds, color=colors)
        panel.bar_label(bars, [three_digits(s) if s else "" for s in speeds], padding=3)
        panel.margins(x=0.15)
        panel.set_title(f"{setting}: images a second", fontsize="medium")
    figure.suptitle(describe(result["environment"]), fontsize="small")
    return figure
