"""toolkit.drawings: one layout of pictures, whatever library draws them."""

from collections import UserList
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from setformer_mm.utils.errors import UserError
from toolkit.drawings import draw_into, draw_predictions


def make_runner(method: str, draw, pictures: list[Path] | None) -> SimpleNamespace:
    """A runner whose data set tells its pictures, or does not."""
    dataset = list(map(str, pictures or ()))
    if pictures is not None:
        dataset = UserList(dataset)
        dataset.get_data_info = lambda i: dict(img_path=dataset[i])
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    visualizer = SimpleNamespace(**{method: draw})
    return SimpleNamespace(visualizer=visualizer, test_loop=loop)


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("method", ["add_datasample", "visualize_cls"])
def test_pictures_of_one_name_keep_apart(method, is_told, tmp_path):
    """The hooks of two libraries name no file, or one that is the same for both."""
    written = []

    def draw(name, image, data_sample=None, out_file=None, step=0):
        written.append(Path(out_file))

    folder = tmp_path / "data"
    pictures = [folder / "val/cat/0.png", folder / "val/dog/0.png"]
    runner = make_runner(method, draw, pictures if is_told else None)
    draw_into(runner, tmp_path / "drawn")
    for path in pictures:
        sample = SimpleNamespace(img_path=str(path))
        getattr(runner.visualizer, method)("0", None, data_sample=sample, out_file="x")
    root = folder / "val" if is_told else "/"
    assert written == [tmp_path / "drawn" / path.relative_to(root) for path in pictures]


@pytest.mark.parametrize("way", ["itself", "link"])
def test_no_drawing_takes_the_place_of_a_picture(way, tmp_path):
    pictures = [tmp_path / "data/val/0.png", tmp_path / "data/test/0.png"]
    for path in pictures:
        path.parent.mkdir(parents=True)
        path.touch()
    folder = tmp_path / "data"
    if way == "link":
        folder = tmp_path / "drawn"
        folder.mkdir()
        (folder / "test").symlink_to(tmp_path / "data/test")
    runner = make_runner("add_datasample", None, pictures)
    with pytest.raises(UserError, match="0.png is read and would be written over"):
        draw_into(runner, folder)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
def test_the_librarys_own_hook_draws(scope):
    hook = dict(visualization=dict(type="Other", score_thr=0.5))
    cfg = Config(dict(default_scope=scope, default_hooks=hook))
    draw_predictions(cfg, show=True)
    hook = cfg.default_hooks.visualization
    assert hook.type.endswith("VisualizationHook") and hook.score_thr == 0.5
    assert hook.show and (hook.get("draw") or hook.get("enable"))
