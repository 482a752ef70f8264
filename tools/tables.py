"""SeTformer beside its peers: ``python tools/tables.py {imagenet,coco,ade20k} ...``.

Parameters and multiply-adds of whole models are computed now, from our configs, and by
the same counter of the peers that the installed mm libraries and timm ship, which stand
in the same configs in place of our backbone. Beside them are the figures that their
authors publish, those that the paper of SeTformer states, and what runs of our configs
have measured. ``--speed`` measures images a second as well.
"""

import argparse
import importlib.util
import logging
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from toolkit.flags import positive_integer

# Library of each task's configs; mmpretrain has the peers' backbones, too.
LIBRARIES = dict(imagenet="mmpretrain", coco="mmdet", ade20k="mmseg")
# The last stage, of stride 32, has to have room for Swin's windows of 7 x 7.
LEAST_SIDE = 7 * 32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=LIBRARIES, metavar="TASK")
    parser.add_argument(
        "--format", choices=["terminal", "markdown", "csv"], default="terminal"
    )
    parser.add_argument(
        "--work-dirs", default="work_dirs", help="where runs left what they measured"
    )
    parser.add_argument(
        "--all-runs",
        action="store_true",
        help="count runs with other settings than their config's, too",
    )
    parser.add_argument("--json", metavar="FILE", help="write what is computed")
    speed = parser.add_argument_group("images a second")
    speed.add_argument(
        "--speed", action="store_true", help="measure them, of all models in one run"
    )
    speed.add_argument("--device", choices=["cpu", "cuda"])
    speed.add_argument(
        "--batch", type=positive_integer, help="images a call (8, dense models 1)"
    )
    speed.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images (those of the table; dense models on a CPU half the sides)",
    )
    speed.add_argument(
        "--rounds", type=positive_integer, default=7, help="turns of each model"
    )
    speed.add_argument("--threads", type=positive_integer, help="of the CPU")
    args = parser.parse_args()
    if args.size and min(args.size) < LEAST_SIDE:
        parser.error(
            f"--size must be at least {LEAST_SIDE} {LEAST_SIDE}, got {args.size}"
        )
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch
from torch import Tensor, nn
from tqdm import tqdm

from setformer_mm.utils.complexity import count_model
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import Result, config_sha256, read_results
from toolkit.launch import build_model, read_config, run_tool
from toolkit.model_figures import (
    SETFORMERS,
    TASKS,
    Computed,
    Published,
    Task,
    read_published,
    write_computed,
)
from toolkit.model_tables import (
    LEGEND,
    Cell,
    Row,
    Table,
    claims_table,
    models_table,
    rows_of,
)
from toolkit.outputs import require_writable_file
from toolkit.peers import PEERS, config_path, load_config, models_of
from toolkit.timing import environment, interleave, quartiles

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "docs" / "data" / "published.yaml"
VERSIONS = ("torch", "mmpretrain", "mmdet", "mmseg", "timm")

# A model's turn repeats its forward pass for about so long.
TURN_SECONDS = 0.2


def require_libraries(tasks: list[str], device: str) -> None:
    """Check that the configs of all tasks can be built.

    Raises:
        UserError: naming what is not there.
    """
    for task in tasks:
        for library in (LIBRARIES[task], "mmpretrain"):
            if importlib.util.find_spec(library) is None:
                raise UserError(f"the table {task} needs {library}, not installed here")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs a GPU and torch sees none")


def measurements(
    task: Task, published: Published, results: list[Result]
) -> tuple[list[Result], list[str]]:
    """Keep runs that are what a config says, and name the models of the others.

    Flags change anything: a training of two iterations has the config's name, too.

    Returns:
        Results of the task's configs with their own settings, and notes.
    """
    kept, notes = [], []
    for key in SETFORMERS:
        path = config_path(task, key)
        runs = [run for run in results if Path(run.config or "").name == path.name]
        if not runs:
            continue
        sha256 = config_sha256(read_config(str(path)))
        own = [run for run in runs if run.config_sha256 == sha256]
        kept += own
        if others := len(runs) - len(own):
            counted = "1 run" if others == 1 else f"{others} runs"
            notes.append(
                f"Of {published.models[key].name}, {counted} had other settings than "
                f"{path.relative_to(ROOT).as_posix()}, as flags change them, and "
                "measured something else: only --all-runs counts such."
            )
    return kept, notes


def compute(task: Task, key: str) -> Computed:
    """Build a model and count it."""
    model = build_model(load_config(task, key))
    return Computed(
        config=config_path(task, key).relative_to(ROOT).as_posix(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=count_model(model, torch.empty(1, 3, task.height, task.width)),
        backbone=PEERS[key].backbone if key in PEERS else None,
    )


def compute_all(
    name: str, published: Published
) -> tuple[dict[str, Computed], dict[str, str]]:
    """Compute what can be computed of a task's models, with progress on stderr."""
    keys, missing = models_of(name, published)
    progress = tqdm(keys, desc=name, unit="model", file=sys.stderr)
    return {key: compute(TASKS[name], key) for key in progress}, missing


class Forward:
    """One forward pass over a batch of random images, without decoding its results.

    A detector passes its RPN's proposals through the box head, and 100 of them through
    the mask head.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        self.samples = []
        if hasattr(model, "roi_head"):
            from mmdet.structures import DetDataSample

            shape = tuple(images.shape[-2:])
            metainfo = dict(img_shape=shape, ori_shape=shape, scale_factor=(1, 1))
            samples = [DetDataSample(metainfo=metainfo) for _ in images]
            self.samples = [samples]

    @torch.inference_mode()
    def __call__(self) -> None:
        self.model(self.images, *self.samples, mode="tensor")


def measure_speed(
    name: str, computed: Mapping[str, Computed], args: argparse.Namespace
) -> tuple[dict[str, list[float]], str]:
    """Time all models side by side.

    Returns:
        Images a second, one number a round, by model; and how they were measured.
    """
    task, dense = TASKS[name], name != "imagenet"
    shrink = 2 if dense and args.device == "cpu" else 1
    height, width = args.size or (task.height // shrink, task.width // shrink)
    batch = args.batch or (1 if dense else 8)
    if args.threads:
        torch.set_num_threads(args.threads)
    images = torch.rand(batch, 3, height, width, device=args.device)
    calls = {}
    for key in tqdm(computed, desc=f"{name}: build", unit="model", file=sys.stderr):
        torch.manual_seed(0)
        model = build_model(load_config(task, key)).to(args.device)
        calls[key] = Forward(model, images)
    warm_up(calls, computed, args.rounds)
    turns = len(calls) * args.rounds
    with tqdm(total=turns, desc=f"{name}: time", unit="turn", file=sys.stderr) as bar:
        times = interleave(
            calls, args.device, args.rounds, TURN_SECONDS, tick=bar.update
        )
    speeds = {key: [batch / seconds for seconds in times[key]] for key in times}
    return speeds, describe_speed(environment(args.device), batch, height, width, args)


def warm_up(
    calls: Mapping[str, Forward], computed: Mapping[str, Computed], rounds: int
) -> None:
    """Call every model once, after saying how long all of it will take."""
    cheapest = min(calls, key=lambda key: computed[key].multiply_adds)
    for _ in range(2):  # the first call starts libraries
        start = time.perf_counter()
        calls[cheapest]()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    work = sum(computed[key].multiply_adds for key in calls)
    seconds *= work / computed[cheapest].multiply_adds * (2 + rounds)
    seconds = max(seconds, TURN_SECONDS * rounds * len(calls))
    print(f"Speed will take about {seconds:.0f} s", file=sys.stderr)
    for call in calls.values():
        call()


def describe_speed(
    machine: dict, batch: int, height: int, width: int, args: argparse.Namespace
) -> str:
    """One sentence on the method."""
    threads = "" if args.device == "cuda" else f", {machine['threads']} threads"
    return (
        f"Images a second: medians of {args.rounds} rounds in which all models take "
        f"turns (in brackets, quartiles), after a warm-up; one forward pass over "
        f"{batch} random images of {height} x {width}, without decoding, random "
        f"weights, float32; {machine['device']}{threads}, torch {machine['torch']}, "
        f"{machine['date']}."
    )


def add_speed(
    table: Table, rows: list[Row], speeds: Mapping[str, list[float]], method: str
) -> None:
    """Add a column."""
    table.titles.append("images/s, measured")
    table.value_titles.append(("images/s", "lower quartile", "upper quartile"))
    table.notes.append(method)
    for row, cells in zip(table.rows, rows):
        if cells.key in speeds:
            low, middle, high = quartiles(speeds[cells.key])
            text = f"{middle:.3g} ({low:.3g} to {high:.3g})"
            row.append(Cell((middle, low, high), text, "measured"))
        else:
            row.append(Cell((None,) * 3, ""))


def versions() -> dict[str, str]:
    """Of what counted and of what ships the peers, if it was needed."""
    loaded = [name for name in VERSIONS if name in sys.modules]
    return {name: sys.modules[name].__version__ for name in loaded}


def main() -> None:
    args = parse_args()
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    require_libraries(args.tasks, args.device)
    if args.json:
        require_writable_file(args.json, "--json")
    published = read_published(PUBLISHED)
    results = read_results(args.work_dirs)
    all_computed = {}
    for name in args.tasks:
        computed, missing = compute_all(name, published)
        all_computed[name] = computed
        own, notes = measurements(TASKS[name], published, results)
        counted = results if args.all_runs else own
        rows = rows_of(name, published, computed, counted, missing)
        table = models_table(name, rows, [LEGEND, *published.notes[name], *notes])
        if args.speed:
            add_speed(table, rows, *measure_speed(name, computed, args))
        claims = claims_table(name, published, computed)
        heading = "" if args.format == "csv" else f"{TASKS[name].title}\n\n"
        print(f"{heading}{table.render(args.format)}\n\n{claims.render(args.format)}\n")
    if args.json:
        write_computed(args.json, all_computed, versions(), time.strftime("%Y-%m-%d"))
        print(f"Computed figures written to {args.json}", file=sys.stderr)


if __name__ == "__main__":
    run_tool(main)
