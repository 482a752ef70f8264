"""Draw loss and validation metric: ``python tools/plot_curves.py WORK_DIR OUT.png``."""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw the curves of a training run.")
    parser.add_argument("work_dir", help="work directory of tools/train.py")
    parser.add_argument("out", help="picture to write, e.g. curve.png")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import numpy as np
from matplotlib.figure import Figure

from setformer_mm.utils.files import save_figure
from toolkit.ablation.curves import Curve, read_records, to_curves
from toolkit.launch import run_tool
from toolkit.outputs import require_writable_figure

# The metrics worth a curve, with the unit in which the host libraries log them.
METRICS = {
    "coco/bbox_mAP": "box mAP",
    "coco/segm_mAP": "mask mAP",
    "mIoU": "mIoU in %",
    "accuracy/top1": "top-1 accuracy in %",
}


def smooth(values: list[float], window: int) -> np.ndarray:
    """Centred moving average, over fewer values at both ends."""
    weights = np.ones(window)
    count = np.convolve(np.ones(len(values)), weights, mode="same")
    return np.convolve(values, weights, mode="same") / count


def plot(curves: dict[str, Curve], out: str) -> None:
    """Loss on the left axis (raw and smoothed), metrics on the right one."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    steps, losses = zip(*curves["loss"])
    smoothed = smooth(losses, window=max(1, len(losses) // 20))
    left.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=1)
    left.plot(steps, smoothed, color="tab:blue", label="training loss")
    left.set_xlabel("iteration")
    left.set_ylabel("training loss")
    left.set_ylim(bottom=0)
    left.grid(alpha=0.3)

    metrics = [name for name in METRICS if name in curves]
    if metrics:
        right = left.twinx()
        right.set_ylabel("validation metric")
    for name, color in zip(metrics, ("tab:red", "tab:orange"), strict=False):
        steps, values = zip(*curves[name])
        label = f"{METRICS[name]} (last {values[-1]:.3g})"
        right.plot(steps, values, "o-", color=color, markersize=3, label=label)
        right.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    save_figure(figure, out)


def main() -> None:
    args = parse_args()
    require_writable_figure(args.out, "OUT")
    records = read_records(args.work_dir)
    plot(to_curves(records, ("loss", *METRICS)), args.out)
    print(f"Curves drawn in {args.out}")


if __name__ == "__main__":
    run_tool(main)
