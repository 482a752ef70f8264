"""Put the figures of a run into README.md and docs/benchmarks.md.

``make bench && python tools/publish_benchmarks.py bench_output`` keeps ``op.json``,
``backbone.json`` and ``backbone_bf16.json`` of that folder in ``docs/data/benchmarks``,
draws the pictures in ``docs/images``, and writes the tables between marks in both
documents. Nothing between the marks is to be edited by hand.
"""

import argparse
import json
from pathlib import Path

from setformer_mm.utils.files import replace_section, save_figure, write_atomically
from toolkit.benchmarks import backbone_tables, operator_tables
from toolkit.benchmarks.reporting import DPI, describe

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


def updated_documents(results: dict[str, dict]) -> dict[str, str]:
    """The documents by their names, with the tables of all benchmarks written anew.

    Raises:
        ValueError: if a document lacks a mark.
    """
    texts = {name: (ROOT / name).read_text("utf-8") for name in (README, DOCUMENT)}
    for name, benchmark in BENCHMARKS.items():
        result = results[name]
        short = f"{benchmark.headline(result)}\n\n{describe(result['environment'])}"
        sections = {README: short, DOCUMENT: benchmark.render(result)}
        marks = BEGIN.format(name), END.format(name)
        for document, section in sections.items():
            texts[document] = replace_section(texts[document], *marks, section)
    return texts


def read_results(folder: Path) -> dict[str, dict]:
    """What the benchmarks wrote with ``--json``."""
    return {
        name: json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in BENCHMARKS
    }


def main() -> None:
    """Keep the figures, draw the pictures, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where the benchmarks wrote their JSON files")
    folder = Path(parser.parse_args().folder)
    results = read_results(folder)
    texts = updated_documents(results)
    for name, benchmark in BENCHMARKS.items():
        content = (folder / f"{name}.json").read_bytes()
        write_atomically(ROOT / RESULTS / f"{name}.json", content)
        save_figure(
            benchmark.draw(results[name]), ROOT / IMAGES / f"bench_{name}.png", DPI
        )
    for name, text in texts.items():
        write_atomically(ROOT / name, text)
    print(f"Written: {', '.join(texts)}, {IMAGES}/bench_*.png, {RESULTS}")


if __name__ == "__main__":
    main()
