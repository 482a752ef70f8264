"""Train and test a small SeTformer on the embedded data, in minutes on two CPU cores.

``python tools/demo.py {det,seg,cls}`` runs the other tools one after the other, prints
each command for you to copy, and leaves pictures, curves and metrics in
``demo_output/<task>``.
"""

import argparse
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["det", "seg", "cls"])
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.json_text import json_text
from setformer_mm.utils.results import FILE_NAMES, read_result
from toolkit.child_processes import run_child
from toolkit.folder_lock import LOCK_NAME, hold_folder
from toolkit.launch import run_tool

ROOT = Path(__file__).resolve().parents[1]
# All that a demo leaves in its folder.
TRAINED, COMMITTED = "trained", "committed"
OUTPUTS = {
    *(TRAINED, COMMITTED, "curves.png", "metrics.json"),
    *("predictions_just_trained.png", "predictions_committed.png"),
}


@dataclass(frozen=True)
class Task:
    """The files of one of the three jobs on digits.

    Attributes:
        name: of config and checkpoint; the short run's config ends in ``_demo``.
        metrics: what to show of a test's result, with its meaning.
    """

    name: str
    metrics: dict[str, str]

    @property
    def short_config(self) -> str:
        return f"configs/digits/{self.name}_demo.py"

    @property
    def full_config(self) -> str:
        return f"configs/digits/{self.name}.py"

    @property
    def committed_checkpoint(self) -> str:
        return f"configs/digits/checkpoints/{self.name}.pth"


TASKS = dict(
    det=Task(
        "mask_rcnn_setformer_digits",
        {
            "coco/bbox_mAP": "box mAP",
            "coco/bbox_mAP_50": "box AP50",
            "coco/segm_mAP": "mask mAP",
            "coco/segm_mAP_50": "mask AP50",
        },
    ),
    seg=Task(
        "upernet_setformer_digits",
        {"mIoU": "mIoU (%)", "mAcc": "mean accuracy (%)", "aAcc": "pixel accuracy (%)"},
    ),
    cls=Task("setformer_digits", {"accuracy/top1": "top-1 accuracy (%)"}),
)


def run(tool: str, *arguments: object) -> None:
    """Show and run one of the tools; end the demo if it fails."""
    command = [f"tools/{tool}", *map(str, arguments)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    status = run_child([sys.executable, *command], cwd=ROOT)
    if status:
        sys.exit(status)


def test(config: str, checkpoint: str, work_dir: Path, sheet: Path) -> dict[str, float]:
    """Test a checkpoint, draw some of its predictions, return its metrics."""
    predictions = work_dir / "predictions.pkl"
    flags = ("--work-dir", work_dir, "--out", predictions)
    run("test.py", config, checkpoint, *flags)
    run("contact_sheet.py", config, predictions, sheet)
    return read_result(ROOT / work_dir / FILE_NAMES["test"]).metrics


def print_table(names: dict[str, str], results: dict[str, dict[str, float]]) -> None:
    """One row a metric, one column a model."""
    print("\n" + " " * 20 + "".join(f"{model:>14}" for model in results))
    for key, name in names.items():
        values = [metrics[key] for metrics in results.values()]
        texts = ["none" if value is None else f"{value:.3f}" for value in values]
        print(f"{name:20}" + "".join(f"{text:>14}" for text in texts))


def clear(folder: Path) -> None:
    """Delete what an earlier demo left in its folder.

    Raises:
        UserError: if it holds anything else, or another demo runs in it.
    """
    hold_folder(folder, "stop it")
    if others := {path.name for path in folder.iterdir()} - OUTPUTS - {LOCK_NAME}:
        raise UserError(
            f"{folder} holds {min(others)}, which is not of a demo; move it elsewhere"
        )
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()


def main() -> None:
    name = parse_args().task
    task = TASKS[name]
    start = time.monotonic()

    out = Path("demo_output", name)
    clear(ROOT / out)
    run("prepare_mini_data.py")
    run("train.py", task.short_config, "--work-dir", out / TRAINED)
    checkpoint = (ROOT / out / TRAINED / "last_checkpoint").read_text("utf-8")
    run("plot_curves.py", out / TRAINED, out / "curves.png")
    results = {
        "just trained": test(
            task.short_config,
            os.path.relpath(checkpoint, ROOT),
            out / TRAINED,
            out / "predictions_just_trained.png",
        )
    }
    if (ROOT / task.committed_checkpoint).exists():
        results["committed"] = test(
            task.full_config,
            task.committed_checkpoint,
            out / COMMITTED,
            out / "predictions_committed.png",
        )
    else:
        print(
            f"\n{task.committed_checkpoint} is not there: only the short run is shown"
        )

    seconds = round(time.monotonic() - start)
    summary = json_text(dict(seconds=seconds, **results), indent=2)
    write_atomically(ROOT / out / "metrics.json", summary)
    print_table(task.metrics, results)
    if name == "det":
        print("\n-1.000 above stands for sizes of objects that the data do not have.")
    print(
        f"\nDone in {seconds // 60} min {seconds % 60} s. Pictures, curves and metrics:"
    )
    print(ROOT / out)


if __name__ == "__main__":
    run_tool(main)
