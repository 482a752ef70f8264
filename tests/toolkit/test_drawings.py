"""toolkit.drawings: one layout of pictures, whatever library draws them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from toolkit.drawings import draw_into, draw_predictions, path_of_drawing


@pytest.mark.parametrize("method", ["add_datasample", "visualize_cls"])
def test_pictures_of_one_name_keep_apart(method, tmp_path):
    """The hooks of two libraries name no file, or one that is the same for both."""
    written = []

    def draw(name, image, data_sample=None, out_file=None, step=0):
        written.append(Path(out_file))

    dataset = dict(type="Repeat", dataset=dict(data_root=str(tmp_path / "data")))
    runner = SimpleNamespace(
        visualizer=SimpleNamespace(**{method: draw}),
        cfg=Config(dict(test_dataloader=dict(dataset=dataset))),
    )
    draw_into(runner, str(tmp_path / "drawn"))
    for name in ("val/cat/0.png", "val/dog/0.png"):
        sample = SimpleNamespace(img_path=str(tmp_path / "data" / name))
        getattr(runner.visualizer, method)("0", None, data_sample=sample, out_file="x")
    drawn = tmp_path / "drawn" / "val"
    assert written == [drawn / "cat" / "0.png", drawn / "dog" / "0.png"]


def test_picture_outside_of_the_roots(tmp_path):
    assert path_of_drawing("/elsewhere/a.png", ["", str(tmp_path)]) == Path("a.png")


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
def test_the_librarys_own_hook_draws(scope):
    hook = dict(visualization=dict(type="Other", score_thr=0.5))
    cfg = Config(dict(default_scope=scope, default_hooks=hook))
    draw_predictions(cfg, show=True)
    hook = cfg.default_hooks.visualization
    assert hook.type.endswith("VisualizationHook") and hook.score_thr == 0.5
    assert hook.show and (hook.get("draw") or hook.get("enable"))
