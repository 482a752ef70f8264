"""Compare mixers on sequences: ListOps, and docstrings byte by byte.

``python tools/train_sequences.py [--tasks listops ...] [--mixers SeT ...]
[--seeds 0 1 2]`` trains what is missing, one run after the other, the first seed of all
mixers and tasks first, and goes on where it was interrupted: each run is a file in
``--out``. Then it prints tables, draws a picture, and with ``--document`` writes the
tables into a document. Without tasks it trains nothing. Trainings need transformers
(``pip install -r requirements/transformers.txt``).
"""

import argparse
from itertools import product
from pathlib import Path

from toolkit.sequences.grid import MIXERS, TASK_NAMES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tasks", nargs="+", choices=TASK_NAMES, default=[], metavar="TASK"
    )
    parser.add_argument(
        "--mixers", nargs="+", choices=MIXERS, default=[*MIXERS], metavar="MIXER"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--out", type=Path, default=Path("sequences_output"), help="folder of the runs"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/sequences"),
        help="folder of the texts, which are drawn if they are not there",
    )
    parser.add_argument(
        "--picture", type=Path, help="PNG to draw; in --out if not given"
    )
    parser.add_argument(
        "--document", type=Path, help="a document with a section for the tables"
    )
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.installed import is_installed
from toolkit.document_sections import require_section, write_section
from toolkit.launch import run_tool
from toolkit.outputs import require_writable_folder
from toolkit.sequences.runs import path_of, read_run, read_runs, write_run
from toolkit.sequences.tables import draw, markdown
from toolkit.sequences.tasks import TASKS, load_data


def train_what_is_missing(args: argparse.Namespace) -> None:
    """Train every mixer on every task with every seed.

    Raises:
        UserError: if transformers is missing, or a run is there that was trained with
            other settings.
    """
    if not is_installed("transformers"):
        raise UserError(
            "trainings on sequences need transformers; run `pip install -r "
            "requirements/transformers.txt` in an environment without mmpretrain"
        )
    from toolkit.sequences.training import settings_of, train

    data = {name: load_data(name, args.data) for name in args.tasks}
    settings = {name: settings_of(TASKS[name], data[name]) for name in args.tasks}
    todo = []
    for seed, task, mixer in product(args.seeds, args.tasks, args.mixers):
        path = path_of(args.out, task, mixer, seed)
        if not path.exists():
            todo.append((task, mixer, seed))
        elif read_run(path).settings != settings[task]:
            raise UserError(
                f"{path} was trained with other settings or texts; remove it or name "
                "another --out"
            )
    for number, (task, mixer, seed) in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {task}, {mixer}, seed {seed}", flush=True)
        run = train(task, mixer, seed, data[task])
        write_run(args.out, run)
        print(f"    {run.accuracy:.1f} % in {run.seconds:.0f} s", flush=True)


def main() -> None:
    args = parse_args()
    require_writable_folder(args.out, "--out")
    if args.document:
        require_section(args.document, "sequences")
    if args.tasks:
        train_what_is_missing(args)
    runs = read_runs(args.out)
    tables = markdown(runs)
    print(tables)
    draw(runs, args.picture or args.out / "accuracy.png")
    if args.document:
        write_section(args.document, "sequences", tables)


if __name__ == "__main__":
    run_tool(main)
