"""Train and test a small SeTformer on the embedded data, in minutes on two CPU cores.

``python tools/demo.py {det,seg,cls}`` runs the other tools one after the other, prints
each command for you to copy, and leaves pictures, curves and metrics in
``demo_output/<task>``.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.results import FILE_NAMES, read_result

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Task:
    """The files of one of the three mini jobs.

    Attributes:
        name: of config and checkpoint; the short run's config ends in ``_demo``.
        metrics: what to show of a test's result, with its meaning.
    """

    name: str
    metrics: dict[str, str]

    @property
    def short_config(self) -> str:
        return f"configs/mini/{self.name}_demo.py"

    @property
    def full_config(self) -> str:
        return f"configs/mini/{self.name}.py"

    @property
    def committed_checkpoint(self) -> str:
        return f"checkpoints/{self.name}.pth"


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
    status = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
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
        row = "".join(f"{metrics[key]:14.3f}" for metrics in results.values())
        print(f"{name:20}{row}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    name = parser.parse_args().task
    task = TASKS[name]
    start = time.monotonic()

    out = Path("demo_output", name)
    shutil.rmtree(ROOT / out, ignore_errors=True)  # of an earlier demo
    run("prepare_mini_data.py")
    run("train.py", task.short_config, "--work-dir", out / "trained")
    checkpoint = (ROOT / out / "trained" / "last_checkpoint").read_text()
    run("plot_curves.py", out / "trained", out / "curves.png")
    results = {
        "just trained": test(
            task.short_config,
            os.path.relpath(checkpoint, ROOT),
            out / "trained",
            out / "predictions_just_trained.png",
        )
    }
    if (ROOT / task.committed_checkpoint).exists():
        results["committed"] = test(
            task.full_config,
            task.committed_checkpoint,
            out / "committed",
            out / "predictions_committed.png",
        )
    else:
        print(
            f"\n{task.committed_checkpoint} is not there: only the short run is shown"
        )

    seconds = round(time.monotonic() - start)
    summary = json.dumps(dict(seconds=seconds, **results), indent=2)
    write_atomically(ROOT / out / "metrics.json", summary + "\n")
    print_table(task.metrics, results)
    print(
        f"\nDone in {seconds // 60} min {seconds % 60} s. Pictures, curves and metrics:"
    )
    print(ROOT / out)


if __name__ == "__main__":
    main()
