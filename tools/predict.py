"""Draw what a model sees in pictures, for all three tasks.

``python tools/predict.py IMAGES... --config CONFIG --checkpoint FILE --out-dir DIR``

Drawings keep the paths of their pictures, from the folder that all pictures have in
common, below ``DIR/vis``; label maps are PNG files below ``DIR/pred``. What is no
readable picture is left out and listed at the end, with exit status 1.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from toolkit.flags import add_allow_missing


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw predictions on pictures.")
    parser.add_argument(
        "images", nargs="+", help="picture files, or folders with any below"
    )
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--checkpoint", required=True, help="checkpoint file")
    parser.add_argument("--out-dir", default="predictions", help="where to draw")
    parser.add_argument("--device", help="cpu, cuda, ... (a GPU if there is one)")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="least score of a drawn instance"
    )
    add_allow_missing(parser)
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import numpy as np
from mmengine.registry import init_default_scope
from torch import nn
from tqdm import tqdm

from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    load_fitting_weights,
    read_checkpoint,
)
from setformer_mm.utils.errors import UserError
from toolkit.class_names import read_class_names
from toolkit.config_checks import require_parts
from toolkit.launch import read_config, run_tool
from toolkit.outputs import (
    require_short_names,
    require_sources_kept,
    require_writable_folder,
)
from toolkit.pictures import (
    UnreadablePicture,
    find_pictures,
    read_picture,
    save_picture,
)
from toolkit.preflight import require_device

# Draws on a picture, (height, width, 3) in the order BGR, what the model sees in it.
# Returns the drawing in the order RGB, and a label map or None.
Draw = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def instances_drawer(cfg, args, names: dict) -> tuple[nn.Module, Draw]:
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(cfg, args.checkpoint, device=args.device)
    inferencer.show_progress = False
    inferencer.model.dataset_meta.update(names)
    inferencer.visualizer.dataset_meta = inferencer.model.dataset_meta

    def draw(picture: np.ndarray) -> tuple[np.ndarray, None]:
        found = inferencer(picture, return_datasamples=True)["predictions"][0]
        rgb = picture[..., ::-1]
        inferencer.visualizer.add_datasample(
            "", rgb, found, draw_gt=False, pred_score_thr=args.score_thr
        )
        return inferencer.visualizer.get_image(), None

    return inferencer.model, draw


def segments_drawer(cfg, args, names: dict) -> tuple[nn.Module, Draw]:
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(cfg, args.checkpoint, device=args.device)
    inferencer.show_progress = False
    names = {key: names[key] for key in ("classes", "palette") if key in names}
    inferencer.model.dataset_meta.update(names)
    inferencer.visualizer.set_dataset_meta(**inferencer.model.dataset_meta)
    inferencer.visualizer.alpha = 0.8

    def draw(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = inferencer(picture, return_datasamples=True)
        rgb = picture[..., ::-1]
        inferencer.visualizer.add_datasample("", rgb, found.cpu(), draw_gt=False)
        labels = found.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        return inferencer.visualizer.get_image(), labels

    return inferencer.model, draw


def classes_drawer(cfg, args, names: dict) -> tuple[nn.Module, Draw]:
    from mmpretrain import ImageClassificationInferencer
    from mmpretrain.utils import progress
    from mmpretrain.visualization import UniversalVisualizer

    progress.disable_progress_bar = True
    inferencer = ImageClassificationInferencer(
        cfg, args.checkpoint, device=args.device, classes=names.get("classes")
    )
    visualizer = UniversalVisualizer()

    def draw(picture: np.ndarray) -> tuple[np.ndarray, None]:
        (found,) = inferencer(picture, return_datasamples=True)
        # Wide enough for the text, however small the picture.
        drawing = visualizer.visualize_cls(
            picture[..., ::-1],
            found,
            classes=inferencer.classes,
            draw_gt=False,
            resize=320,
        )
        return drawing, None

    return inferencer.model, draw


# Each builds the model of a config once, with the weights of a checkpoint.
DRAWERS = dict(mmdet=instances_drawer, mmseg=segments_drawer, mmpretrain=classes_drawer)


def draw_all(
    images: dict[Path, Path], draw: Draw, drawings: Path, label_maps: Path
) -> list[str]:
    """Draw all pictures that can be, into one folder, their label maps into another.

    Returns:
        A sentence about each of the others.
    """
    failures = []
    for path, relative in tqdm(images.items(), "drawing", leave=False, disable=None):
        try:
            picture = read_picture(path)
        except UnreadablePicture as error:
            failures.append(str(error))
            continue
        try:
            drawing, labels = draw(picture)
        except Exception as error:  # of any type: the config's pipeline is the user's
            size = " x ".join(map(str, picture.shape[1::-1]))
            reason = " ".join(str(error).split())
            failures.append(
                f"{path} of {size} pixels does not pass this config's pipeline and "
                f"model: {reason or type(error).__name__}"
            )
            continue
        save_picture(drawing, drawings / relative)
        if labels is not None:
            save_picture(labels, place_of_label_map(label_maps, relative))
    return failures


def place_of_label_map(folder: Path, picture: Path) -> Path:
    """Below a folder; a.jpg and a.png may both be there."""
    return folder / picture.with_name(f"{picture.name}.png")


def main() -> None:
    args = parse_args()
    require_writable_folder(args.out_dir, "--out-dir")
    if args.device:
        require_device(args.device)
    drawings, label_maps = Path(args.out_dir, "vis"), Path(args.out_dir, "pred")
    images = find_pictures(args.images, leave_out=[drawings, label_maps])
    cfg = read_config(args.config)
    require_parts(cfg, ("model", "test_dataloader"))
    scope = cfg.get("default_scope")
    if scope not in DRAWERS:
        raise UserError(f"default_scope must be one of {list(DRAWERS)}, got {scope!r}")
    targets = [drawings / name for name in images.values()]
    if scope == "mmseg":
        targets += [place_of_label_map(label_maps, name) for name in images.values()]
    require_sources_kept(images, targets)
    require_short_names(targets, "a drawing")
    load_checkpoints_safely()
    checkpoint = read_checkpoint(args.checkpoint)
    init_default_scope(scope)
    if "visualizer" in cfg:
        # Those of training need a run's folder.
        cfg.visualizer.vis_backends = None
    model, draw = DRAWERS[scope](cfg, args, read_class_names(cfg, checkpoint))
    # The host libraries let weights be random that the checkpoint lacks.
    load_fitting_weights(model, args.checkpoint, args.allow_missing, checkpoint)
    failures = draw_all(images, draw, drawings, label_maps)
    print(f"{len(images) - len(failures)} pictures drawn in {drawings}")
    if failures:
        listed = "\n  ".join(failures)
        raise UserError(f"{len(failures)} pictures were left out:\n  {listed}")


if __name__ == "__main__":
    run_tool(main)
