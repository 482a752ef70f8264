"""Where a test draws predictions: in one layout, whatever library draws them."""

import os.path as osp
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import Dataset

from setformer_mm.utils.data_sources import leaf_datasets
from setformer_mm.utils.errors import UserError

from .outputs import require_short_names, require_sources_kept
from .preflight import data_folders

# Each library's hook that draws, and what switches it on.
HOOKS = dict(
    mmdet=dict(type="DetVisualizationHook", draw=True),
    mmseg=dict(type="SegVisualizationHook", draw=True),
    # Room for the text, however small the picture.
    mmpretrain=dict(type="VisualizationHook", enable=True, interval=1, resize=320),
)


def draw_predictions(cfg: Config, show: bool, augmented: bool = False) -> None:
    """Switch on the host library's own hook for pictures.

    Args:
        cfg: a whole config; what it says of that hook's looks stays.
        show: whether to draw on the screen.
        augmented: whether the test sees each picture several times.

    Raises:
        UserError: if the library cannot draw then.
    """
    scope = cfg.get("default_scope")
    if augmented and scope not in ("mmdet", "mmseg"):
        raise UserError("mmpretrain draws nothing with --tta; draw in a test without")
    hook = cfg.default_hooks.setdefault("visualization", {})
    wanted = HOOKS.get(scope, HOOKS["mmpretrain"])
    hook.update({**wanted, **{k: hook[k] for k in ("interval", "resize") if k in hook}})
    hook.show = show


def draw_into(runner: Runner, folder: Path) -> None:
    """Let that hook write into ``folder``, one file a picture.

    Left alone, each library has a place and names of its own, among them the number of
    the picture, and two of them let pictures of one name overwrite each other. Here a
    drawing has the path of its picture: from the ``data_root`` that all test data have
    in common, or the current folder if they have none; the whole path if the picture
    lies elsewhere; and the name that the library has for it if it is no file.

    Args:
        runner: with its test data.
        folder: need not exist.

    Raises:
        UserError: if a drawing would be written over a picture or other data, or its
            name is too long; at once if the data set tells its pictures beforehand,
            else when it is drawn.
    """
    dataset = runner.cfg.test_dataloader.dataset
    roots = [leaf.get("data_root") for _, leaf in leaf_datasets(dataset, "")]
    start = osp.commonpath(
        [osp.abspath(root) for root in roots if root] or [Path.cwd()]
    )
    kept = data_folders(runner.cfg, ("train", "val", "test"))

    def path_of_drawing(picture: Path) -> Path:
        below = start if picture.is_relative_to(start) else picture.anchor
        return folder / picture.relative_to(below)

    pictures = _pictures_of(runner.test_loop.dataloader.dataset)
    targets = [path_of_drawing(picture) for picture in pictures]
    require_sources_kept(pictures, targets, kept)
    require_short_names(targets, "a drawing")
    told = set(targets)
    visualizer = runner.visualizer
    name = "visualize_cls" if hasattr(visualizer, "visualize_cls") else "add_datasample"
    draw = getattr(visualizer, name)

    def draw_into_folder(*args, data_sample, **kwargs) -> None:
        if img_path := getattr(data_sample, "img_path", None):
            picture = Path(osp.abspath(img_path))
            sources, path = [picture], path_of_drawing(picture)
        else:  # it is no file
            sources, path = [], folder / f"{kwargs.get('name', 'picture')}.png"
        if path not in told:
            require_sources_kept(sources, [path], kept)
            require_short_names([path], "a drawing")
        draw(*args, data_sample=data_sample, **{**kwargs, "out_file": str(path)})

    setattr(visualizer, name, draw_into_folder)


def _pictures_of(dataset: Dataset) -> list[Path]:
    """Those of a data set that can tell without reading them, as mmengine's can."""
    if not hasattr(dataset, "get_data_info"):
        return []
    records = (dataset.get_data_info(index) for index in range(len(dataset)))
    found = (info.get("img_path") for info in records if isinstance(info, dict))
    return [Path(osp.abspath(path)) for path in found if isinstance(path, str)]
