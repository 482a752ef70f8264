"""Write what lies in ``docs/data`` into the documents: ``python tools/update_docs.py``.

A document holds a section between two marks, ``<!-- begin NAME: ... -->`` and
``<!-- end NAME -->``, where NAME is one of :func:`sections`; nothing between them is to
be edited by hand. ``model-index.yml`` is written as a whole, and the pictures of the
ablations are drawn with their tables. Nothing is computed here:
``tools/tables.py imagenet coco ade20k --json docs/data/computed.json`` does that, and
``tools/ablate.py`` leaves an ``ablation.json`` for ``docs/data/ablation``.
"""

import argparse
import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if a document is not what docs/data/ says",
    )
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import replace_section, write_atomically
from setformer_mm.utils.markdown import markdown_table, three_digits
from toolkit.ablation.pictures import draw, draw_progress
from toolkit.ablation.runs import AblationRun, comparable_means, group_runs
from toolkit.ablation.tables import markdown
from toolkit.documented_data import DATA_SETS, DIGITS, Data, read_data
from toolkit.launch import run_tool
from toolkit.model_figures import SETFORMERS, TASKS
from toolkit.model_index import model_index
from toolkit.model_tables import FAILS, HOLDS, claims_table, models_table, rows_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/tables.md", "docs/datasets.md", "docs/ablations.md")
ABLATIONS_PICTURE = "docs/images/ablations.png"
PROGRESS_PICTURE = "docs/images/progress_{}.png"  # of a grid whose runs kept curves
MIXERS_IN_README = ("SeT", "softmax", "agent, learning rate 5e-4", "none")
NOT_MEASURED = "*Not measured yet.*"
MODEL_INDEX = "model-index.yml"
BEGIN = "<!-- begin {}: written by tools/update_docs.py -->"
END = "<!-- end {} -->"


def models_overview(data: Data) -> str:
    """Parameters and multiply-adds of the family, with links to the configs."""
    header = ["", *(task.title.partition(";")[0] for task in TASKS.values())]
    rows = []
    for key in SETFORMERS:
        row = [data.published.models[key].name]
        for name in TASKS:
            computed = data.computed[name][key]
            sizes = (
                f"{three_digits(computed.parameters / 1e6)} M, "
                f"{three_digits(computed.multiply_adds / 1e9)} G"
            )
            row.append(f"[{sizes}]({computed.config})")
        rows.append(row)
    return markdown_table(header, rows)


def whole_table(name: str, data: Data) -> str:
    """A task's table with all peers, and what the paper states of size, cost, speed."""
    computed, results = data.computed[name], list(data.measured.values())
    rows = rows_of(name, data.published, computed, results)
    table = models_table(name, rows, list(data.published.notes[name]))
    claims = claims_table(name, data.published, computed)
    return f"{table.render('markdown')}\n\n{claims.render('markdown')}"


def claims_sentence(data: Data) -> str:
    """How many of the paper's statements on size, cost and speed hold."""
    verdicts = Counter()
    for name in TASKS:
        claims = claims_table(name, data.published, data.computed[name])
        verdicts.update(row[-1].text for row in claims.rows)
    total, holding, failing = verdicts.total(), verdicts[HOLDS], verdicts[FAILS]
    rest = total - holding - failing
    return (
        f"Of the paper's {total} statements on size, cost and speed, {holding} hold "
        f"for these models, {failing} do not, and {rest} cannot be checked here."
    )


def sources_list(data: Data) -> str:
    """Where published and stated figures come from, and of which models."""
    lines = []
    models = data.published.models.values()
    for key, source in data.published.sources.items():
        names = [model.name for model in models if model.source == key]
        for task in TASKS:
            names += [
                f"{model.name} on {DATA_SETS[task]}"
                for model in models
                if model.figures.get(task, {}).get("source") == key
            ]
        title = f"[{source['title']}]({source['url']})"
        lines.append(f"- {', '.join(names)}: {title}")
    return "\n".join(lines)


def digits_table(data: Data) -> str:
    """The committed checkpoints of the embedded data, with links to what made them."""
    header = ["job", "metric", "measured", "files"]
    rows = []
    for name, (job, metrics, decimals) in DIGITS.items():
        checkpoint = f"configs/digits/checkpoints/{name}"
        files = (
            f"[config](configs/digits/{name}.py), [checkpoint]({checkpoint}.pth), "
            f"[curves]({checkpoint}.png)"
        )
        title = " / ".join(metrics.values())
        measured = reached([data.measured[name].metrics], metrics, decimals)
        rows.append([job, title, measured, files])
    return markdown_table(header, rows)


def demos_table(data: Data) -> str:
    """What the demos reach on the embedded data, beside the committed checkpoints."""
    header = ["command", "job", "metric", "time", "short run", "committed checkpoint"]
    rows = []
    for name, (job, metrics, decimals) in DIGITS.items():
        demo = data.demos[name]
        title = " / ".join(metrics.values())
        of_seeds = [run.result.metrics for run in demo.runs]
        short = reached(of_seeds, metrics, decimals)
        long = reached([data.measured[name].metrics], metrics, decimals)
        rows.append([f"`{demo.command}`", job, title, demo.time, short, long])
    return markdown_table(header, rows)


def reached(
    measured: Sequence[dict[str, float]], metrics: dict[str, str], decimals: int
) -> str:
    """The values of ``metrics`` with each seed, bold as all that is measured here."""
    if not measured:
        return "not run yet"
    values = ([of_seed[key] for of_seed in measured] for key in metrics)
    return f"**{' / '.join(with_deviation(v, decimals) for v in values)}**"


def ablation_tables(grid: str, data: Data) -> str:
    """The tables of a grid, whose baseline may have been trained in another one."""
    runs = data.ablations[grid]
    if not runs:
        return NOT_MEASURED
    groups = {group for run in runs for group in run.rows}
    baselines = [run for run in data.all_ablations if groups & set(run.baseline_of)]
    runs = [*runs, *(run for run in baselines if run not in runs)]
    runs = [_within(groups, run) for run in runs]
    return markdown(runs, data.speeds).rstrip("\n")


def mixers_overview(data: Data) -> str:
    """A few token mixers on single digits and in the relational task.

    Raises:
        UserError: if one was not trained on digits.
    """
    if not data.ablations["converged"] or not data.ablations["relations"]:
        return NOT_MEASURED
    (digits,) = group_runs(data.ablations["converged"]).values()
    (relations,) = group_runs(data.ablations["relations"]).values()
    related = {row.name: row for row in relations}
    if missing := set(MIXERS_IN_README) - {row.name for row in digits}:
        raise UserError(f"the grid converged has no {', '.join(sorted(missing))}")
    header = ["token mixer", "parameters (digits)", "digits, top-1 (%)"]
    header += ["after a third", "relational scenes, top-1 (%)"]
    shown = [row for row in digits if row.name in MIXERS_IN_README]
    means = comparable_means(shown)
    lines = []
    for row in sorted(shown, key=lambda row: -means[row.name]):
        at_a_third = [run.score_after(1 / 3) for run in row.runs]
        # Rates were chosen on digits; the scenes have one for all.
        mixer = related.get(row.name.partition(", learning rate")[0])
        lines.append(
            [
                f"**{row.name}**" if row.is_baseline else row.name,
                f"{row.runs[0].result.num_parameters / 1e6:.2f} M",
                with_deviation(row.scores, 1),
                "–" if None in at_a_third else with_deviation(at_a_third, 1),
                with_deviation(mixer.scores, 1) if mixer else "–",
            ]
        )
    return markdown_table(header, lines)


def with_deviation(scores: Sequence[float], decimals: int) -> str:
    """Mean and deviation of some scores, or the only one."""
    mean = f"{statistics.fmean(scores):.{decimals}f}"
    if len(scores) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(scores):.{decimals}f}"


def _within(groups: set[str], run: AblationRun) -> AblationRun:
    rows = {group: name for group, name in run.rows.items() if group in groups}
    return replace(run, rows=rows)


def sections(data: Data) -> dict[str, Callable[[], str]]:
    """What may stand between marks, by its name there."""
    return {
        "models": partial(models_overview, data),
        **{f"{name}-all": partial(whole_table, name, data) for name in TASKS},
        "claims": partial(claims_sentence, data),
        "sources": partial(sources_list, data),
        "digits": partial(digits_table, data),
        "demos": partial(demos_table, data),
        "mixers": partial(mixers_overview, data),
        **{
            f"ablation-{grid}": partial(ablation_tables, grid, data)
            for grid in data.ablations
        },
    }


def updated(text: str, data: Data) -> str:
    """A document with its sections written anew.

    Raises:
        UserError: if a mark names no section, or has no counterpart.
    """
    known = sections(data)
    for name in re.findall(BEGIN.format(r"(\S+)"), text):
        if name not in known:
            raise UserError(f"a mark names the section {name}, which does not exist")
        try:
            marks = BEGIN.format(name), END.format(name)
            text = replace_section(text, *marks, known[name]())
        except ValueError as error:
            raise UserError(str(error)) from error
    return text


def draw_ablations(data: Data) -> None:
    """Draw all grids in one picture, and the learning curves of each."""
    draw(data.all_ablations, ROOT / ABLATIONS_PICTURE)
    print(f"Drawn: {ABLATIONS_PICTURE}")
    for grid, runs in data.ablations.items():
        picture = PROGRESS_PICTURE.format(grid)
        if draw_progress(runs, ROOT / picture, data.speeds):
            print(f"Drawn: {picture}")


def main() -> None:
    args = parse_args()
    data = read_data(ROOT / "docs" / "data")
    wanted = {MODEL_INDEX: model_index(data)}
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        wanted[name] = updated(text, data)
    for name in sections(data):
        if not any(BEGIN.format(name) in text for text in wanted.values()):
            raise UserError(f"no document has marks for the section {name}")
    differing = [
        name
        for name, text in wanted.items()
        if not (ROOT / name).exists()
        or (ROOT / name).read_text(encoding="utf-8") != text
    ]
    if args.check and differing:
        raise UserError(
            f"{', '.join(differing)} differ from what docs/data/ says; run "
            "`python tools/update_docs.py`"
        )
    if "docs/ablations.md" in differing:
        draw_ablations(data)  # first: if it fails, the document still differs
    for name in differing:
        write_atomically(ROOT / name, wanted[name])
        print(f"Written: {name}")
    if not differing:
        print("All documents are what docs/data/ says")


if __name__ == "__main__":
    run_tool(main)
