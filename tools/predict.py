"""Draw what a model sees in pictures, for all three tasks.

``python tools/predict.py IMAGES... --config CONFIG --checkpoint FILE --out-dir DIR``
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    load_fitting_weights,
    read_checkpoint,
)
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.launch import (
    add_allow_missing,
    build_model,
    read_config,
    run_tool,
)

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw predictions on pictures.")
    parser.add_argument("images", nargs="+", help="picture files, or folders of them")
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--checkpoint", required=True, help="checkpoint file")
    parser.add_argument("--out-dir", default="predictions", help="where to draw")
    parser.add_argument("--device", help="cpu, cuda, ... (a GPU if there is one)")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="least score of a drawn instance"
    )
    add_allow_missing(parser)
    return parser.parse_args()


def find_images(paths: list[str]) -> list[str]:
    """Replace folders by the pictures in them.

    Raises:
        UserError: if a path does not exist, or there is no picture at all.
    """
    images = []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(path.iterdir())
            images += [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        elif path.is_file():
            images.append(path)
        else:
            raise UserError(f"the picture {path} does not exist")
    if not images:
        raise UserError(f"there are no pictures in {', '.join(paths)}")
    return [str(image) for image in images]


def read_class_names(cfg: Config, checkpoint: dict) -> dict:
    """Class names and palette: the config's, else its data set's, else the file's.

    The host libraries look into the checkpoint alone and fall back to COCO or
    Cityscapes, while published weights may hold nothing but weights.
    """
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    return {
        **(checkpoint.get("meta", {}).get("dataset_meta") or {}),
        **getattr(DATASETS.get(dataset.type), "METAINFO", {}),
        **dataset.get("metainfo", {}),
    }


def draw_instances(cfg, args, images: list[str], names: dict) -> None:
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(cfg, args.checkpoint, device=args.device)
    inferencer.model.dataset_meta.update(names)
    inferencer.visualizer.dataset_meta = inferencer.model.dataset_meta
    inferencer(images, out_dir=args.out_dir, pred_score_thr=args.score_thr)


def draw_segments(cfg, args, images: list[str], names: dict) -> None:
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(cfg, args.checkpoint, device=args.device)
    names = {key: names[key] for key in ("classes", "palette") if key in names}
    inferencer.model.dataset_meta.update(names)
    inferencer(images, out_dir=args.out_dir)


def draw_classes(cfg, args, images: list[str], names: dict) -> None:
    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(
        cfg, args.checkpoint, device=args.device, classes=names.get("classes")
    )
    show_dir = Path(args.out_dir, "vis")
    show_dir.mkdir(parents=True, exist_ok=True)
    # Wide enough for the text, however small the picture.
    inferencer(images, show_dir=str(show_dir), resize=320)


DRAW = dict(mmdet=draw_instances, mmseg=draw_segments, mmpretrain=draw_classes)


def main() -> None:
    args = parse_args()
    images = find_images(args.images)
    cfg = read_config(args.config)
    scope = cfg.get("default_scope")
    if scope not in DRAW:
        raise UserError(f"default_scope must be one of {list(DRAW)}, got {scope!r}")
    load_checkpoints_safely()
    checkpoint = read_checkpoint(args.checkpoint)
    load_fitting_weights(build_model(cfg), args.checkpoint, args.allow_missing)
    init_default_scope(scope)
    if "visualizer" in cfg:
        cfg.visualizer.vis_backends = (
            None  # those of training, which need a run's folder
        )
    DRAW[scope](cfg, args, images, read_class_names(cfg, checkpoint))
    print(f"{len(images)} pictures drawn in {Path(args.out_dir, 'vis')}")


if __name__ == "__main__":
    run_tool(main)
