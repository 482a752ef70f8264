"""Write what lies in ``docs/data`` into the documents: ``python tools/update_docs.py``.

A document holds a section between two marks, ``<!-- begin NAME: ... -->`` and
``<!-- end NAME -->``, where NAME is one of :func:`sections`; nothing between them is to
be edited by hand. ``model-index.yml`` is written as a whole, and the picture of the
ablations is drawn with their tables. Nothing is computed here:
``tools/tables.py imagenet coco ade20k --json docs/data/computed.json`` does that, and
``tools/ablate.py`` leaves an ``ablation.json`` for ``docs/data/ablation``.
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import replace_section, write_atomically
from setformer_mm.utils.markdown import markdown_table
from setformer_mm.utils.results import Result, read_result
from toolkit.ablation.report import draw, markdown
from toolkit.ablation.runs import AblationRun, read_runs
from toolkit.launch import run_tool
from toolkit.model_figures import (
    SETFORMERS,
    TASKS,
    Computed,
    Published,
    read_computed,
    read_published,
)
from toolkit.model_tables import FAILS, HOLDS, claims_table, models_table, rows_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/tables.md", "docs/ablations.md")
ABLATIONS_PICTURE = "docs/images/ablations.png"
MODEL_INDEX = "model-index.yml"
BEGIN = "<!-- begin {}: written by tools/update_docs.py -->"
END = "<!-- end {} -->"

# README.md shows these peers, docs/tables.md all of them.
SHOWN = (
    *SETFORMERS,
    *("swin_t", "swin_b", "convnext_t", "convnext_b"),
    *("cswin_t", "cswin_b", "nat_t", "nat_b"),
)


# By task, as metafiles spell them.
DATA_SETS = dict(imagenet="ImageNet-1k", coco="COCO", ade20k="ADE20K")


@dataclass(frozen=True)
class Data:
    """What lies in ``docs/data/``.

    Attributes:
        measured: By name of the config.
        demos: Likewise, what short runs measured.
        ablations: By name of the grid.
    """

    published: Published
    computed: dict[str, dict[str, Computed]]
    measured: dict[str, Result]
    demos: dict[str, dict]
    ablations: dict[str, list[AblationRun]]

    @property
    def all_ablations(self) -> list[AblationRun]:
        """The runs of all grids."""
        return [run for runs in self.ablations.values() for run in runs]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if a document is not what docs/data/ says",
    )
    return parser.parse_args()


def read_data(folder: Path) -> Data:
    """Read all results.

    Raises:
        UserError: naming the first file that is missing or wrong.
    """
    results = [read_result(path) for path in sorted(folder.glob("measured/*.json"))]
    try:
        demos = yaml.safe_load((folder / "demos.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} does not exist; restore it by git") from None
    return Data(
        published=read_published(folder / "published.yaml"),
        computed=read_computed(folder / "computed.json"),
        measured={Path(result.config).stem: result for result in results},
        demos=demos,
        ablations={
            path.stem: read_runs([path])
            for path in sorted(folder.glob("ablation/*.json"))
        },
    )


def short_table(name: str, data: Data) -> str:
    """A task's table for README.md."""
    results = list(data.measured.values())
    rows = rows_of(name, data.published, data.computed[name], results, only=SHOWN)
    shown = {row.key for row in rows}
    notes = [
        note for note, about in data.published.notes[name].items() if shown & set(about)
    ]
    return models_table(name, rows, notes).render("markdown")


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
        f"for these models, {failing} do not, and {rest} cannot be checked here: "
        "[docs/tables.md](docs/tables.md) has each of them, and more peers."
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


# The jobs on the embedded data: what they do, and the metrics that count.
DIGITS = dict(
    mask_rcnn_setformer_digits=(
        "Mask R-CNN",
        {"coco/bbox_mAP": "box mAP", "coco/segm_mAP": "mask mAP"},
        "{:.3f}",
    ),
    upernet_setformer_digits=("UperNet", {"mIoU": "mIoU"}, "{:.1f} %"),
    setformer_digits=("classifier", {"accuracy/top1": "top-1"}, "{:.1f} %"),
)


def digits_table(data: Data) -> str:
    """What demos and committed checkpoints reach on the embedded data."""
    header = ["job", "metric", "short run", "time of the demo", "committed checkpoint"]
    rows = []
    for name, (job, metrics, form) in DIGITS.items():
        demo, result = data.demos[name], data.measured[name]
        short, long = (
            "**" + " / ".join(form.format(measured[key]) for key in metrics) + "**"
            if measured
            else "not run yet"
            for measured in (demo.get("metrics"), result.metrics)
        )
        job = f"{job} (`{demo['command']}`)"
        title = " / ".join(metrics.values())
        rows.append([job, title, short, demo.get("time", ""), long])
    return markdown_table(header, rows)


def ablation_tables(grid: str, data: Data) -> str:
    """The tables of a grid, whose baseline may have been trained in another one."""
    runs = data.ablations[grid]
    if not runs:
        return "*Not measured yet.*"
    groups = {group for run in runs for group in run.rows}
    baselines = [run for run in data.all_ablations if groups & set(run.baseline_of)]
    runs = [*runs, *(run for run in baselines if run not in runs)]
    return markdown([_within(groups, run) for run in runs]).rstrip("\n")


def _within(groups: set[str], run: AblationRun) -> AblationRun:
    rows = {group: name for group, name in run.rows.items() if group in groups}
    return replace(run, rows=rows)


def sections(data: Data) -> dict[str, Callable[[], str]]:
    """What may stand between marks, by its name there."""
    return {
        **{name: partial(short_table, name, data) for name in TASKS},
        **{f"{name}-all": partial(whole_table, name, data) for name in TASKS},
        "claims": partial(claims_sentence, data),
        "sources": partial(sources_list, data),
        "digits": partial(digits_table, data),
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


def model_index(data: Data) -> str:
    """``model-index.yml``, as mim and modelindex read it."""
    models = []
    for name, label in DATA_SETS.items():
        for key in SETFORMERS:
            computed = data.computed[name][key]
            metadata = {
                "Training Data": label,
                "Parameters": computed.parameters,
                "FLOPs": computed.multiply_adds,
            }
            models.append(index_entry(computed.config, metadata))
    for name in DIGITS:
        result = data.measured[name]
        metadata = {
            "Training Data": "digits in photographs (embedded)",
            "Parameters": result.num_parameters,
        }
        models.append(index_entry(result.config, metadata, digits_results(result)))
    content = dict(Collections=[COLLECTION], Models=models)
    return INDEX_HEADER + yaml.safe_dump(content, sort_keys=False)


def index_entry(config: str, metadata: dict, results: list | None = None) -> dict:
    entry = {
        "Name": Path(config).stem,
        "In Collection": COLLECTION["Name"],
        "Config": config,
        "Metadata": metadata,
    }
    return entry | (dict(Results=results) if results else {})


def digits_results(result: Result) -> list[dict]:
    """What a committed checkpoint reached, in the metafiles' terms."""
    entries = []
    for logged, (task, metric, scale) in INDEX_METRICS.items():
        if (value := result.metrics.get(logged)) is not None:
            entries.append(
                {
                    "Task": task,
                    "Dataset": "digits in photographs (embedded)",
                    "Metrics": {metric: round(scale * value, 2)},
                }
            )
    return entries


INDEX_HEADER = """\
# Written by tools/update_docs.py. Parameters and FLOPs (multiply-adds of an image) are
# computed by tools/tables.py: at 224 x 224, with Mask R-CNN at 1280 x 800, with UperNet
# at 512 x 2048. Results are measured; weights are listed once they have an address.
"""
COLLECTION = {
    "Name": "SeTformer",
    "Metadata": {
        "Architecture": [
            "Convolutional stem",
            "SeT attention (entropic optimal transport onto learned references)",
        ]
    },
    "Paper": {
        "Title": "SeTformer Is What You Need for Vision and Language",
        "URL": "https://arxiv.org/abs/2401.03540",
    },
    "README": "README.md",
}
# Task, metric, and what makes a percentage of it, by what the host libraries log.
INDEX_METRICS = {
    "accuracy/top1": ("Image Classification", "Top 1 Accuracy", 1),
    "coco/bbox_mAP": ("Object Detection", "box AP", 100),
    "coco/segm_mAP": ("Instance Segmentation", "mask AP", 100),
    "mIoU": ("Semantic Segmentation", "mIoU", 1),
}


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
    for name in differing:
        write_atomically(ROOT / name, wanted[name])
        print(f"Written: {name}")
    if "docs/ablations.md" in differing:
        draw(data.all_ablations, ROOT / ABLATIONS_PICTURE)
        print(f"Drawn: {ABLATIONS_PICTURE}")
    if not differing:
        print("All documents are what docs/data/ says")


if __name__ == "__main__":
    run_tool(main)
