"""Draw predictions beside ground truth, several pictures of the test set in one.

``python tools/contact_sheet.py CONFIG PREDICTIONS.pkl OUT.png``, where the predictions
are those of ``tools/test.py --out``.
"""

import argparse

from toolkit.flags import positive_integer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw predictions and ground truth.")
    parser.add_argument("config", help="config file")
    parser.add_argument("predictions", help="file written by tools/test.py --out")
    parser.add_argument("out", help="picture to write")
    parser.add_argument(
        "--count", type=positive_integer, default=8, help="number of test pictures"
    )
    parser.add_argument("--score-thr", type=float, default=0.5, help="of instances")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as rle

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import save_figure
from toolkit.config_checks import require_parts
from toolkit.launch import one_line, read_config, run_tool
from toolkit.outputs import require_sources_kept, require_writable_figure
from toolkit.pictures import read_picture
from toolkit.predictions import read_predictions
from toolkit.preflight import data_files, data_folders, require_data

OPACITY = 0.65
# What annotations and predictions say that are of another form than is drawn.
DRAWING_ERRORS = AttributeError, LookupError, OSError, TypeError, ValueError


def draw_instances(axes: Axes, image: np.ndarray, instances: list[dict], meta) -> None:
    """Paint masks into the picture; put boxes, class names and scores above it."""
    image = image.astype(float)
    colors = np.asarray(meta["palette"], float)
    for instance in instances:
        if instance["mask"] is None:  # of a detector of boxes
            continue
        mask = rle.decode(instance["mask"]).astype(bool)
        color = colors[instance["label"]]
        image[mask] = (1 - OPACITY) * image[mask] + OPACITY * color
    axes.imshow(image.astype(np.uint8))
    axes.autoscale(False)  # the picture fills the axes, whatever a box sticks out
    for instance in instances:
        left, top, right, bottom = instance["bbox"]
        color = colors[instance["label"]] / 255
        corners = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axes.plot(*corners, color=color, linewidth=1)
        name = str(meta["classes"][instance["label"]])
        text = f"{name} {instance['score']:.2f}" if "score" in instance else name
        box = dict(facecolor=color, edgecolor="none", pad=0.8)
        axes.text(left, top, text, fontsize=5, va="bottom", bbox=box)


def draw_segments(axes: Axes, image: np.ndarray, labels: np.ndarray, meta) -> None:
    """Paint classes over the picture, background (black) and ignored pixels not."""
    palette = np.zeros((256, 3))
    palette[: len(meta["palette"])] = meta["palette"]
    colors = palette[labels]
    painted = (1 - OPACITY) * image + OPACITY * colors
    shown = np.where(colors.any(-1, keepdims=True), painted, image)
    axes.imshow(shown.astype(np.uint8))


def add_legend(figure: Figure, meta) -> None:
    """Say which colour is which class."""
    patches = [
        Patch(facecolor=np.asarray(color) / 255, edgecolor="gray", label=name)
        for name, color in zip(meta["classes"], meta["palette"], strict=True)
    ]
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=len(patches),
        fontsize=7,
        frameon=False,
        columnspacing=1,
        handlelength=1,
    )


def draw_class(axes: Axes, image: np.ndarray, text: str) -> None:
    axes.imshow(image)
    axes.set_xlabel(text, fontsize=7)


def draw_pair(scope: str, truth: Axes, guess: Axes, info, sample, dataset, thr) -> None:
    """Draw one picture twice, with its annotation and with its prediction.

    Args:
        scope: the host library.
        truth: where to draw the annotation.
        guess: where to draw the prediction.
        info: the picture's record in the data set.
        sample: its prediction, as tools/test.py dumps it.
        dataset: for names and colours of classes.
        thr: least score of a drawn instance.
    """
    meta = dataset.metainfo
    image = read_picture(info["img_path"])[..., ::-1]
    if scope == "mmdet":
        height, width = image.shape[:2]
        instances = [
            dict(
                bbox=instance["bbox"],
                label=instance["bbox_label"],
                mask=as_rle(instance.get("mask"), height, width),
            )
            for instance in info["instances"]
        ]
        draw_instances(truth, image, instances, meta)
        found = sample["pred_instances"]
        masks = found.get("masks", [None] * len(found["scores"]))
        instances = [
            dict(bbox=box.tolist(), label=int(label), score=float(score), mask=mask)
            for box, label, score, mask in zip(
                *(found[key] for key in ("bboxes", "labels", "scores")),
                masks,
                strict=True,
            )
            if score >= thr
        ]
        instances.sort(key=lambda instance: instance["score"])  # the surest on top
        draw_instances(guess, image, instances, meta)
    elif scope == "mmseg":
        labels = np.asarray(Image.open(info["seg_map_path"]))
        draw_segments(truth, image, labels, meta)
        labels = sample["pred_sem_seg"]["data"].squeeze(0).numpy()
        draw_segments(guess, image, labels, meta)
    else:
        names = meta["classes"]
        label = int(sample["pred_label"])
        score = float(sample["pred_score"][label])
        draw_class(truth, image, names[int(info["gt_label"])])
        draw_class(guess, image, f"{names[label]} ({score:.2f})")


def as_rle(mask: dict | list | None, height: int, width: int) -> dict | None:
    """Run lengths of a mask that COCO may give as polygons; None if there is none."""
    if not mask:
        return None
    if isinstance(mask, dict):
        if isinstance(mask["counts"], list):
            return rle.frPyObjects(mask, height, width)
        return mask
    return rle.merge(rle.frPyObjects(mask, height, width))


def main() -> None:
    args = parse_args()
    require_writable_figure(args.out, "OUT")
    cfg = read_config(args.config)
    require_parts(cfg, ("test_dataloader",))
    require_data(cfg, ("test",))
    read = [args.config, args.predictions, *data_files(cfg, "test")]
    kept = data_folders(cfg, ("train", "val", "test"))
    require_sources_kept(read, [args.out], kept)
    predictions = read_predictions(args.predictions)
    scope = cfg.get("default_scope")
    init_default_scope(scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    dataset.full_init()
    samples = {sample.get("img_path"): sample for sample in predictions}
    chosen = np.linspace(0, len(dataset) - 1, min(args.count, len(dataset))).astype(int)
    pictures = [dataset.get_data_info(int(index)) for index in chosen]
    for info in pictures:
        if info["img_path"] not in samples:
            raise UserError(
                f"{args.predictions} has no prediction for {info['img_path']} of "
                f"{args.config}; name the config that it was made with"
            )
    rows = -(-len(chosen) // 2)
    figure = Figure(figsize=(8, 2.1 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    for column, title in enumerate(["ground truth", "prediction"] * 2):
        axes[0, column].set_title(title, fontsize=9)
    for info, (truth, guess) in zip(pictures, axes.reshape(-1, 2), strict=False):
        sample = samples[info["img_path"]]
        try:
            draw_pair(scope, truth, guess, info, sample, dataset, args.score_thr)
        except DRAWING_ERRORS as error:
            raise UserError(
                f"{info['img_path']} cannot be drawn with its annotation and what "
                f"{args.predictions} says of it ({one_line(error)}); name the config "
                "that the predictions were made with, or look at the annotation"
            ) from error
    if scope == "mmseg" and len(dataset.metainfo["classes"]) <= 20:
        add_legend(figure, dataset.metainfo)
    save_figure(figure, args.out)
    print(f"Predictions drawn beside ground truth in {args.out}")


if __name__ == "__main__":
    run_tool(main)
