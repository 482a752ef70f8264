"""Put the figures of a run into README.md.

``make bench && python benchmarks/update_readme.py bench_output`` keeps ``op.json`` and
``backbone.json`` of that folder in ``benchmarks/results``, draws the pictures in
``docs/images``, and writes the tables between two marks in README.md. Nothing there is
to be edited by hand.
"""

import argparse
import json
import shutil
from pathlib import Path

import bench_backbone
import bench_op
from reporting import DPI, describe

from setformer_mm.utils.files import replace_section, save_figure, write_atomically

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- written by benchmarks/update_readme.py: -->"
END = "<!-- until here -->"
RESULTS = Path("benchmarks/results")
IMAGES = Path("docs/images")
BENCHMARKS = dict(op=bench_op, backbone=bench_backbone)

SECTION = """\
### The operator

{op_headline}

{op_environment} Ratios of medians (in brackets, of opposite quartiles); memory is the
peak beyond inputs and results.

![Time against the number of tokens]({images}/bench_op.png)

<details><summary>All figures of the operator</summary>

{op}

</details>

### The backbone

{backbone_relative}

{backbone_environment} Speed relative to {baseline}; weights are random.

![Images a second]({images}/bench_backbone.png)

<details><summary>All figures of the backbone</summary>

{backbone}

</details>
"""


def section(results: dict[str, dict]) -> str:
    """What README.md says about the results of both benchmarks."""
    op, backbone = results["op"], results["backbone"]
    return SECTION.format(
        images=IMAGES,
        op=bench_op.render(op),
        op_headline=bench_op.headline(op),
        op_environment=describe(op["environment"]),
        backbone=bench_backbone.render(backbone),
        backbone_relative=bench_backbone.cells_table(
            backbone, bench_backbone.relative_speed
        ),
        backbone_environment=describe(backbone["environment"]),
        baseline=backbone["baseline"],
    )


def read_results(folder: Path) -> dict[str, dict]:
    """What the benchmarks wrote with ``--json``."""
    return {
        name: json.loads((folder / f"{name}.json").read_text()) for name in BENCHMARKS
    }


def main() -> None:
    """Keep the figures, draw the pictures, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where the benchmarks wrote their JSON files")
    folder = Path(parser.parse_args().folder)
    results = read_results(folder)
    readme = ROOT / "README.md"
    text = replace_section(readme.read_text(), BEGIN, END, section(results))
    (ROOT / RESULTS).mkdir(exist_ok=True)
    for name, benchmark in BENCHMARKS.items():
        shutil.copy(folder / f"{name}.json", ROOT / RESULTS)
        save_figure(
            benchmark.draw(results[name]), ROOT / IMAGES / f"bench_{name}.png", DPI
        )
    write_atomically(readme, text)
    print(f"Written: {readme}, {IMAGES}/bench_*.png, {RESULTS}")


if __name__ == "__main__":
    main()
