"""Where a test draws predictions: in one layout, whatever library draws them."""

import os.path as osp
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import Dataset

from .outputs import require_sources_kept

# Each library's hook that draws, and what switches it on.
HOOKS = dict(
    mmdet=dict(type="DetVisualizationHook", draw=True),
    mmseg=dict(type="SegVisualizationHook", draw=True),
    # Room for the text, however small the picture.
    mmpretrain=dict(type="VisualizationHook", enable=True, interval=1, resize=320),
)


def draw_predictions(cfg: Config, show: bool) -> None:
    """Switch on the host library's own hook for pictures.

    Args:
        cfg: a whole config; what it says of that hook's looks stays.
        show: whether to draw on the screen.
    """
    hook = cfg.default_hooks.setdefault("visualization", {})
    wanted = HOOKS.get(cfg.get("default_scope"), HOOKS["mmpretrain"])
    hook.update({**wanted, **{k: hook[k] for k in ("interval", "resize") if k in hook}})
    hook.show = show


def draw_into(runner: Runner, folder: Path) -> None:
    """Let that hook write into ``folder``, one file a picture.

    Left alone, each library has a place and names of its own, among them the number of
    the picture, and two of them let pictures of one name overwrite each other. Here a
    drawing has the path of its picture, from the folder that all pictures of the test
    have in common.

    Args:
        runner: with its test data.
        folder: need not exist.

    Raises:
        UserError: if a drawing would be written over a picture.
    """
    pictures = _pictures_of(runner.test_loop.dataloader.dataset)
    root = osp.commonpath([path.parent for path in pictures]) if pictures else "/"

    def path_of_drawing(picture: Path) -> Path:
        # Of data sets that name no pictures beforehand, the whole path.
        start = root if picture.is_relative_to(root) else picture.anchor
        return folder / picture.relative_to(start)

    require_sources_kept(pictures, map(path_of_drawing, pictures))
    visualizer = runner.visualizer
    name = "visualize_cls" if hasattr(visualizer, "visualize_cls") else "add_datasample"
    draw = getattr(visualizer, name)

    def draw_into_folder(*args, data_sample, **kwargs) -> None:
        path = path_of_drawing(Path(osp.abspath(data_sample.img_path)))
        draw(*args, data_sample=data_sample, **{**kwargs, "out_file": str(path)})

    setattr(visualizer, name, draw_into_folder)


def _pictures_of(dataset: Dataset) -> list[Path]:
    """Those of a data set that can tell without reading them, as mmengine's can."""
    if not hasattr(dataset, "get_data_info"):
        return []
    found = (dataset.get_data_info(i).get("img_path") for i in range(len(dataset)))
    return [Path(osp.abspath(path)) for path in found if isinstance(path, str)]
