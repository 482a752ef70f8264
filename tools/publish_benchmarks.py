"""Put the figures of a run into README.md and docs/benchmarks.md.

``make bench && python tools/publish_benchmarks.py bench_output`` keeps ``op.json``,
``backbone.json`` and ``backbone_bf16.json`` of that folder in ``docs/data/benchmarks``,
draws the pictures in ``docs/images``, and writes the tables between marks: all of them
in docs/benchmarks.md, the headline in README.md. Nothing between the marks is to be
edited by hand. With ``--other`` the folder's figures are those of another processor,
which stand beside the first one's as ratios, without pictures.
"""

import argparse
import json
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, help="where the benchmarks wrote their JSON files"
    )
    parser.add_argument(
        "--other", action="store_true", help="they ran on another processor"
    )
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import replace_section, save_figure, write_atomically
from toolkit.benchmarks import backbone_tables, headline, operator_tables
from toolkit.benchmarks.reporting import DPI, describe
from toolkit.launch import run_tool

ROOT = Path(__file__).resolve().parents[1]
README, DOCUMENT = "README.md", "docs/benchmarks.md"
BEGIN = "<!-- begin {}: written by tools/publish_benchmarks.py -->"
END = "<!-- end {} -->"
RESULTS = Path("docs/data/benchmarks")
IMAGES = Path("docs/images")
# What makes tables of the figures of each.
BENCHMARKS = dict(
    op=operator_tables, backbone=backbone_tables, backbone_bf16=backbone_tables
)
HEADLINE = "headline"
OTHER = "other"  # section, and folder in RESULTS


def updated_documents(
    results: dict[str, dict], other: dict[str, dict]
) -> dict[str, str]:
    """The documents by their names, with the tables of all benchmarks written anew.

    Args:
        results: by name of the benchmark, as what follows.
        other: of another processor.

    Raises:
        UserError: if both are of one processor, or their settings differ.
        ValueError: if a document lacks a mark.
    """
    require_another_processor(results["backbone"], other["backbone"])
    op, backbone = results["op"], results["backbone"]
    sections = {
        README: {HEADLINE: headline.section(op, backbone, other["backbone"])},
        DOCUMENT: {
            **{name: made.render(results[name]) for name, made in BENCHMARKS.items()},
            OTHER: ratios(other),
        },
    }
    texts = {}
    for document, tables in sections.items():
        texts[document] = (ROOT / document).read_text("utf-8")
        for name, table in tables.items():
            marks = BEGIN.format(name), END.format(name)
            texts[document] = replace_section(texts[document], *marks, table)
    return texts


def require_another_processor(backbone: dict, other: dict) -> None:
    """Check that two results of ``tools/bench_backbone.py`` can stand side by side."""
    device = backbone["environment"]["device"]
    if device == other["environment"]["device"]:
        raise UserError(
            f"both the first and the other figures would be of {device}; `--other` "
            "is for those of the second processor, and only for them"
        )
    settings, others = (
        [record["setting"] for record in result["records"]]
        for result in (backbone, other)
    )
    if settings != others:
        raise UserError("the figures of both processors must be of the same settings")


def ratios(results: dict[str, dict]) -> str:
    """The headline of each benchmark under what it ran on."""
    parts = []
    for name, made in BENCHMARKS.items():
        parts += [describe(results[name]["environment"]), made.headline(results[name])]
    return "\n\n".join(parts)


def read_results(folder: Path) -> dict[str, dict]:
    """What the benchmarks wrote with ``--json``.

    Raises:
        UserError: if a file is missing.
    """
    try:
        return {
            name: json.loads((folder / f"{name}.json").read_text("utf-8"))
            for name in BENCHMARKS
        }
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} does not exist; `make bench` writes it to bench_output"
        ) from None


def main() -> None:
    """Keep the figures, draw the pictures, write the tables."""
    args = parse_args()
    kept, kept_other = ROOT / RESULTS, ROOT / RESULTS / OTHER
    results = read_results(kept if args.other else args.folder)
    other = read_results(args.folder if args.other else kept_other)
    texts = updated_documents(results, other)
    figures = {}
    if not args.other:
        figures = {name: made.draw(results[name]) for name, made in BENCHMARKS.items()}
        figures[HEADLINE] = headline.draw(results["op"], results["backbone"])
    target = kept_other if args.other else kept
    for name in BENCHMARKS:
        content = (args.folder / f"{name}.json").read_bytes()
        write_atomically(target / f"{name}.json", content)
    for name, figure in figures.items():
        save_figure(figure, ROOT / IMAGES / f"bench_{name}.png", DPI)
    for name, text in texts.items():
        write_atomically(ROOT / name, text)
    pictures = f", {IMAGES}/bench_*.png" if figures else ""
    print(f"Written: {', '.join(texts)}{pictures}, {target.relative_to(ROOT)}")


if __name__ == "__main__":
    run_tool(main)
