"""Tables and picture of what ``tools/bench_op.py`` measures."""

from statistics import median
from typing import TYPE_CHECKING

from setformer_mm.utils.markdown import markdown_table, three_digits

from .contenders import DIRECTIONS, EAGER, REFERENCE, SDPA
from .problems import STAGES, SWEEP, Problem, single_image
from .reporting import describe, versus

if TYPE_CHECKING:  # only pictures need it
    from matplotlib.figure import Figure

OURS_STYLE = dict(color="black", linewidth=2.5)


def render(result: dict) -> str:
    """All tables as Markdown."""
    parts = [describe(result["environment"])]
    ours = result["contenders"][0]
    shown = [d for d in DIRECTIONS if ours in columns(result, d)]
    for direction in shown:
        parts += [
            f"Time, {direction}: {ours} in milliseconds, and how many times as long "
            "others take (ratios of medians; in brackets, of opposite quartiles):",
            time_table(result, direction),
        ]
    for direction in shown:
        if any(record["peaks"] for record in result["records"]):
            parts += [
                f"Peak memory beyond inputs and results, {direction}, in MiB:",
                memory_table(result, direction),
            ]
    notes = [f"not available: {name}: {why}" for name, why in result["missing"].items()]
    for record in result["records"]:
        for name, why in record["skipped"].items():
            problem = Problem(**record["problem"])
            notes.append(f"skipped: {name}, {problem}, {record['direction']}: {why}")
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts.append(headline(result))
    return "\n\n".join(parts)


def time_table(result: dict, direction: str) -> str:
    """A row a problem, a column a contender."""
    ours, *others = columns(result, direction)
    rows = []
    for record in of_direction(result, direction):
        times = record["times"]
        row = [str(Problem(**record["problem"]))]
        row.append(three_digits(1000 * median(times[ours])) if ours in times else "")
        for name in others:
            if name in times and ours in times:
                row.append(versus(times, name, ours))
            else:
                row.append("")
        rows.append(row)
    return markdown_table(("", f"{ours} (ms)", *others), rows)


def memory_table(result: dict, direction: str) -> str:
    """A row a problem, a column a contender."""
    names = columns(result, direction)
    rows = []
    for record in of_direction(result, direction):
        peaks = record["peaks"]
        cells = (
            f"{peaks[n] / 2**20:.1f}" if peaks.get(n) is not None else "" for n in names
        )
        rows.append([str(Problem(**record["problem"])), *cells])
    return markdown_table(("", *names), rows)


def headline(result: dict) -> str:
    """The ratios that the stages of SeTformer-T and the growth with N come to."""
    ours = result["contenders"][0]
    times_of, peaks_of = (
        {
            (Problem(**record["problem"]), record["direction"]): record[kind]
            for record in result["records"]
        }
        for kind in ("times", "peaks")
    )
    rows = []
    for number, stage in enumerate(STAGES, 1):
        for direction in DIRECTIONS:
            task = Problem(result["batch"], *stage), direction
            times, peaks = times_of.get(task, {}), peaks_of.get(task, {})
            if ours not in times:
                continue
            row = [f"stage {number}, {direction}"]
            for name in (EAGER, REFERENCE, SDPA):
                row.append(versus(times, name, ours) if name in times else "")
            row.append(
                three_digits(peaks[ours] / peaks[EAGER]) if peaks.get(EAGER) else ""
            )
            rows.append(row)
    parts = []
    if rows:
        header = (
            f"batch {result['batch']}",
            f"time of {EAGER} / {ours}",
            f"time of {REFERENCE} / {ours}",
            f"time of {SDPA} / {ours}",
            f"memory of {ours} / {EAGER}",
        )
        parts += [
            "Time, and peak memory beyond inputs and results, in the stages of "
            "SeTformer-T (ratios of medians; in brackets, of opposite quartiles):",
            markdown_table(header, rows),
        ]
    small, large = map(single_image, SWEEP[-2:])
    for direction in DIRECTIONS:
        both = [times_of.get((p, direction), {}).get(ours) for p in (small, large)]
        if all(both):
            growth = versus(dict(zip(("small", "large"), both)), "large", "small")
            parts.append(
                f"Time of {ours}, {direction}, with {large.tokens} tokens / with "
                f"{small.tokens}: {growth}"
            )
    return "\n\n".join(parts)


def of_direction(result: dict, direction: str) -> list[dict]:
    """The records of one direction."""
    return [r for r in result["records"] if r["direction"] == direction]


def columns(result: dict, direction: str) -> list[str]:
    """The contenders that have a figure in this direction, ours first."""
    records = of_direction(result, direction)
    return [
        name
        for name in result["contenders"]
        if any(name in record["times"] for record in records)
    ]


def draw(result: dict) -> "Figure":
    """Time against the number of tokens of the single image, a panel a direction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, direction in zip(panels, DIRECTIONS):
        for index, name in enumerate(result["contenders"]):
            points = {}
            for record in of_direction(result, direction):
                problem = Problem(**record["problem"])
                if name in record["times"] and problem == single_image(problem.tokens):
                    points[problem.tokens] = 1000 * median(record["times"][name])
            style = dict(color=f"C{index}") if index else OURS_STYLE
            if points:
                panel.loglog(*zip(*sorted(points.items())), ".-", label=name, **style)
        panel.set_title(direction)
        panel.set_xlabel("tokens")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("milliseconds, one image of two heads")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(describe(result["environment"]), fontsize="small")
    return figure
