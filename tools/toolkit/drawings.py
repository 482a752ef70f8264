"""Where a test draws predictions: in one layout, whatever library draws them."""

from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from setformer_mm.utils.data_sources import leaf_datasets

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


def draw_into(runner: Runner, folder: str) -> None:
    """Let that hook write into ``folder``, one file a picture.

    Left alone, each library has a place and names of its own, among them the number of
    the picture, and two of them let pictures of one name overwrite each other. Here a
    drawing has the path of its picture, from the ``data_root`` of its data set.
    """
    visualizer, dataset = runner.visualizer, runner.cfg.test_dataloader.dataset
    roots = [leaf.get("data_root") or "" for _, leaf in leaf_datasets(dataset, "")]
    name = "visualize_cls" if hasattr(visualizer, "visualize_cls") else "add_datasample"
    draw = getattr(visualizer, name)

    def draw_into_folder(*args, data_sample, **kwargs) -> None:
        path = Path(folder, path_of_drawing(data_sample.img_path, roots))
        draw(*args, data_sample=data_sample, **{**kwargs, "out_file": str(path)})

    setattr(visualizer, name, draw_into_folder)


def path_of_drawing(picture: str, roots: list[str]) -> Path:
    """The path of a picture from the first root that it lies below; else its name."""
    path = Path(picture).resolve()
    for root in filter(None, roots):
        if path.is_relative_to(resolved := Path(root).resolve()):
            return path.relative_to(resolved)
    return Path(path.name)
