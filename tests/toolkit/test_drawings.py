"""toolkit.drawings: one layout of pictures, whatever library draws them."""

from collections import UserList
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from setformer_mm.utils.errors import UserError
from toolkit.drawings import draw_into, draw_predictions


def make_runner(draw, dataset: dict, pictures: list | None = None) -> SimpleNamespace:
    """A runner whose data set tells its pictures, or does not."""
    tests = UserList(pictures or [])
    if pictures is not None:
        tests.get_data_info = lambda i: dict(img_path=str(tests[i]))
    return SimpleNamespace(
        visualizer=SimpleNamespace(add_datasample=draw),
        test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=tests)),
        cfg=Config(dict(test_dataloader=dict(dataset=dataset))),
    )


@pytest.mark.parametrize("method", ["add_datasample", "visualize_cls"])
def test_pictures_of_one_name_keep_apart(method, tmp_path):
    """The hooks of two libraries name no file, or one that is the same for both."""
    written = []

    def draw(name, image, data_sample=None, out_file=None, step=0):
        written.append(Path(out_file))

    folder = tmp_path / "data"
    dataset = dict(type="Repeat", dataset=dict(data_root=str(folder)))
    runner = make_runner(draw, dataset)
    runner.visualizer = SimpleNamespace(**{method: draw})
    draw_into(runner, tmp_path / "drawn")
    elsewhere = tmp_path / "elsewhere.png"
    for path in (folder / "val/cat/0.png", folder / "val/dog/0.png", elsewhere):
        sample = SimpleNamespace(img_path=str(path))
        getattr(runner.visualizer, method)("0", None, data_sample=sample, out_file="x")
    below = ["val/cat/0.png", "val/dog/0.png", elsewhere.relative_to("/")]
    assert written == [tmp_path / "drawn" / path for path in below]


def test_paths_without_a_root_or_with_several(tmp_path, monkeypatch):
    """From the current folder, or from what the roots have in common."""
    written = []

    def draw(name, image, data_sample=None, out_file=None):
        written.append(Path(out_file))

    monkeypatch.chdir(tmp_path)
    several = dict(datasets=[dict(data_root="data/a"), dict(data_root="data/b")])
    for dataset in (dict(data_prefix=dict(img_path="data/a")), several):
        runner = make_runner(draw, dataset)
        draw_into(runner, tmp_path / "drawn")
        sample = SimpleNamespace(img_path="data/a/0.png")
        runner.visualizer.add_datasample("0", None, data_sample=sample)
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "drawn/data/a/0.png",
        "drawn/a/0.png",
    ]


def test_pictures_that_are_no_files(tmp_path):
    written = []

    def draw(name, image, data_sample=None, out_file=None):
        written.append(out_file)

    runner = make_runner(draw, {})
    draw_into(runner, tmp_path)
    runner.visualizer.add_datasample(name="7", image=None, data_sample=object())
    assert written == [str(tmp_path / "7.png")]


WAYS = "itself", "link", "link to one", "labels", "other pictures", "below others"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_told", [True, False])
def test_no_drawing_takes_the_place_of_data(way, is_told, tmp_path):
    """At once if the data set tells its pictures, else when one is drawn."""
    names = ["val/0.png", "val/1.png"]
    for part in "xyz":
        for name in names:
            path = tmp_path / "data" / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    dataset = dict(data_root=str(tmp_path / "data/x"), data_prefix=dict(img_path=""))
    folder = tmp_path / "data/x"
    if way == "link":
        folder = tmp_path / "drawn"
        folder.mkdir()
        (folder / "val").symlink_to(tmp_path / "data/x/val")
    elif way == "link to one":
        folder = tmp_path / "drawn"
        (folder / "val").mkdir(parents=True)
        (folder / "val/0.png").symlink_to(tmp_path / "data/x/val/0.png")
    elif way == "labels":
        dataset["data_prefix"]["seg_map_path"] = str(tmp_path / "data/y")
        folder = tmp_path / "data/y"
    pictures = [tmp_path / "data/x" / name for name in names]
    runner = make_runner(None, dataset, pictures if is_told else None)
    if way in ("other pictures", "below others"):  # of the training
        other = dict(data_root=str(tmp_path / "data/z"))
        runner.cfg.train_dataloader = dict(dataset=other)
        folder = tmp_path / "data/z"
        folder = folder / "drawn" if way == "below others" else folder
    with pytest.raises(UserError, match="is for data; name another|0.png is read and"):
        draw_into(runner, folder)
        sample = SimpleNamespace(img_path=str(pictures[0]))
        runner.visualizer.add_datasample("0", None, data_sample=sample)


def test_drawings_of_before_are_replaced(tmp_path):
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn/0.png").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/0.png").touch()
    written = []

    def draw(name, image, data_sample=None, out_file=None):
        written.append(out_file)

    dataset = dict(data_root=str(tmp_path / "data"))
    runner = make_runner(draw, dataset, [tmp_path / "data/0.png"])
    draw_into(runner, tmp_path / "drawn")
    sample = SimpleNamespace(img_path=str(tmp_path / "data/0.png"))
    runner.visualizer.add_datasample("0", None, data_sample=sample)
    assert written == [str(tmp_path / "drawn/0.png")]


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
def test_the_librarys_own_hook_draws(scope):
    hook = dict(visualization=dict(type="Other", score_thr=0.5))
    cfg = Config(dict(default_scope=scope, default_hooks=hook))
    draw_predictions(cfg, show=True)
    hook = cfg.default_hooks.visualization
    assert hook.type.endswith("VisualizationHook") and hook.score_thr == 0.5
    assert hook.show and (hook.get("draw") or hook.get("enable"))


def test_a_library_that_cannot_draw_augmented_tests():
    cfg = Config(dict(default_scope="mmpretrain", default_hooks={}))
    with pytest.raises(UserError, match="draws nothing with --tta"):
        draw_predictions(cfg, show=False, augmented=True)
