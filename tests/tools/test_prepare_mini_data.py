"""The embedded data set: split, bytes, masks, interruptions, and its three readers."""

import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from contextlib import redirect_stdout
from multiprocessing import Process, get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from setformer_mm.data import digits
from setformer_mm.data.relations import NAMED
from setformer_mm.utils.errors import UserError
from toolkit import digit_scenes

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "prepare_mini_data.py"
SMALL = "--train-scenes 12 --val-scenes 6 --train-crops 20 --val-crops 10".split()
SMALL += "--train-relations 20 --val-relations 10".split()

spec = importlib.util.spec_from_file_location("prepare_mini_data", SCRIPT)
tool = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def prepare(out: Path, *arguments: str) -> Path:
    tool.main(["--out", str(out), *SMALL, *arguments])
    return out


def prepare_beside(out: Path, *arguments: str) -> Process:
    """The same in a process of its own, which writes what it says beside ``out``."""

    def run() -> None:
        with open(f"{out}_{os.getpid()}.txt", "w", encoding="utf-8") as said:
            with redirect_stdout(said):
                prepare(out, *arguments)

    process = get_context("fork").Process(target=run)
    process.start()
    return process


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir() if path != out]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("embedded") / "digits")


# What is drawn


def test_train_and_val_share_no_digit_and_no_part_of_a_photograph():
    train, val = digits.load_sources("train"), digits.load_sources("val")
    for of_train, of_val in zip(train.digits, val.digits, strict=True):
        assert not {x.tobytes() for x in of_train} & {x.tobytes() for x in of_val}
        assert 0.18 < len(of_val) / (len(of_train) + len(of_val)) < 0.22
    assert sum(map(len, train.digits + val.digits)) == 1797
    photos = digits.load_sample_images().images
    for left, right, photo in zip(train.photos, val.photos, photos, strict=True):
        assert np.array_equal(np.hstack([left, right]), photo)


@pytest.mark.parametrize("height", [20, 64])
def test_a_stroke_has_the_height_that_was_asked_for(height):
    images = [x for of_class in digits.load_sources("val").digits for x in of_class]
    rng = np.random.default_rng(0)
    strokes = [digits.random_stroke(image, height, rng) for image in images]
    heights = np.array([np.ptp(np.nonzero(stroke > 0.5)[0]) + 1 for stroke in strokes])
    assert abs(heights.mean() / height - 1) < 0.1
    assert heights.min() > 0.7 * height
    assert heights.max() < 1.4 * height


def test_every_digit_stays_visible_and_stands_out():
    rng = np.random.default_rng(0)
    sources = digits.load_sources("train")
    for _ in range(20):
        background = digits.random_background(sources.photos, 128, rng)
        owner = np.full((128, 128), -1, np.int8)
        scene = digit_scenes.Scene(background.copy(), owner)
        full_areas = []
        for label in rng.integers(10, size=6):
            digit = rng.choice(sources.digits[label])
            stroke = digits.random_stroke(digit, rng.uniform(20, 64), rng)
            before = scene.image.copy()
            if scene.try_to_add(label, stroke, rng):
                mask = scene.owner == len(full_areas)
                full_areas.append(mask.sum())
                contrast = np.linalg.norm(scene.image - before, axis=-1)[mask]
                assert (
                    np.mean(contrast > digit_scenes.MIN_CONTRAST)
                    >= digit_scenes.MIN_CONTRAST_SHARE
                )
        visible = [(scene.owner == k).sum() for k in range(len(full_areas))]
        assert visible == scene.visible
        assert np.all(visible >= np.maximum(0.6 * np.array(full_areas), 40))


# What is written


@pytest.mark.parametrize("split, count", [("train", 12), ("val", 6)])
def test_annotations_are_the_pixels_of_the_label_maps(data, split, count):
    coco = COCO(data / "annotations" / f"instances_{split}.json")
    assert [coco.cats[k]["name"] for k in range(1, 11)] == [str(k) for k in range(10)]
    assert sorted(coco.imgs) == list(range(1, count + 1))
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for image in coco.imgs.values():
        assert read(data / "scenes" / split / image["file_name"]).shape == (128, 128, 3)
        label_map = read(data / "labels" / split / image["file_name"])
        drawn, covered = np.zeros((128, 128), int), np.zeros((128, 128), int)
        annotations = coco.imgToAnns[image["id"]]
        assert 1 <= len(annotations) <= 6
        for annotation in annotations:
            mask = coco.annToMask(annotation)
            ys, xs = np.nonzero(mask)
            x, y = xs.min(), ys.min()
            tight = [x, y, xs.max() + 1 - x, ys.max() + 1 - y]
            assert annotation["bbox"] == tight
            assert annotation["area"] == mask.sum() >= 40
            assert annotation["iscrowd"] == 0
            drawn += mask * annotation["category_id"]
            covered += mask
        assert covered.max() == 1, "instances overlap"
        assert np.array_equal(drawn, label_map)


@pytest.mark.parametrize("split, count", [("train", 20), ("val", 10)])
def test_crops_are_shared_evenly_by_the_classes(data, split, count):
    for label in range(10):
        crops = list((data / "classification" / split / str(label)).iterdir())
        assert len(crops) == count // 10
        assert all(read(crop).shape == (64, 64, 3) for crop in crops)


def test_the_same_arguments_give_the_same_bytes(data, tmp_path):
    again = prepare(tmp_path / "again")
    assert contents(again) == contents(data)


def test_another_seed_gives_other_pictures(data, tmp_path):
    other = prepare(tmp_path / "other", "--seed", "1")
    picture = "scenes/val/00000.png"
    assert (other / picture).read_bytes() != (data / picture).read_bytes()


def test_a_larger_data_set_begins_like_a_smaller_one(data, tmp_path):
    larger = prepare(tmp_path / "larger", "--train-scenes", "14")
    for folder in ("scenes", "labels"):
        smaller = contents(data / folder / "train")
        assert smaller.items() <= contents(larger / folder / "train").items()


def test_the_preview_shows_masks(data, tmp_path):
    prepare(data, "--preview", str(tmp_path / "preview.png"))
    preview = read(tmp_path / "preview.png")
    scene, drawn = preview[:256, :256], preview[256:512, :256]
    labels = read(data / "labels/train/00000.png").repeat(2, 0).repeat(2, 1)
    changed = np.any(scene != drawn, axis=-1)
    assert changed[labels > 0].all()
    assert not changed.all()


# When it is written


def test_a_second_run_changes_nothing(tmp_path, capsys):
    out = prepare(tmp_path / "digits")
    assert (
        "Written: 30 classification crops, 18 scenes and 30 relational scenes in"
        in capsys.readouterr().out
    )
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    prepare(out)
    assert capsys.readouterr().out == (
        "Up to date: 30 classification crops, 18 scenes and 30 relational scenes in "
        f"{out}\n"
    )
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


@pytest.mark.parametrize(
    "arguments",
    [["--force"], ["--seed", "1"], ["--val-scenes", "7"], ["--val-relations", "11"]],
)
def test_force_and_other_arguments_rebuild(tmp_path, arguments):
    out = prepare(tmp_path / "digits")
    before = out.stat().st_ino
    prepare(out, *arguments)
    assert out.stat().st_ino != before
    assert leftovers(out) == [".digits.lock"]


def test_a_newer_generator_rebuilds(tmp_path, monkeypatch):
    out = prepare(tmp_path / "digits")
    before = out.stat().st_ino
    monkeypatch.setattr(tool, "GENERATOR_VERSION", tool.GENERATOR_VERSION + 1)
    prepare(out)
    assert out.stat().st_ino != before


@pytest.mark.parametrize(
    "name",
    [
        "scenes/val/00003.png",
        "relations/labels/train/00003.png",
        "annotations/instances_val.json",
        "annotations/relations_val.txt",
    ],
)
def test_damage_is_noticed_and_mended(tmp_path, data, name):
    out = prepare(tmp_path / "digits")
    (out / name).write_bytes((out / name).read_bytes()[:-9])
    prepare(out)
    assert contents(out) == contents(data)


def write(path: Path, text: str = "years of work") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


# What speaks against a folder, and how to make it so from one of ours.
NOT_OURS = {
    "it has no manifest": lambda out: (out / "manifest.json").unlink(),
    "it has no manifest of": lambda out: write(out / "manifest.json", '{"a": 1}'),
    "it has no manifest of this": lambda out: write(out / "manifest.json", "[]"),
    "it has no manifest of this tool": lambda out: write(
        out / "manifest.json", '{"recipe": {"crops": 3}, "digest": ""}'
    ),
    "scenes/val/00003.png is missing": lambda out: (
        out / "scenes/val/00003.png"
    ).unlink(),
    "thesis.tex is of something else": lambda out: write(out / "thesis.tex"),
    "labels/val/more is of something else": lambda out: write(
        out / "labels/val/more/1.png"
    ),
}


@pytest.mark.parametrize("reason", NOT_OURS)
@pytest.mark.parametrize("arguments", [["--force"], ["--seed", "1"]])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path, data, arguments, reason):
    out = tmp_path / "digits"
    shutil.copytree(data, out)
    NOT_OURS[reason](out)
    before = contents(out)
    with pytest.raises(UserError, match=f"must be new, empty or just as .* {reason}"):
        prepare(out, *arguments)
    assert contents(out) == before
    assert leftovers(out) == [".digits.lock"]


def test_any_folder_with_a_manifest_is_left_alone(tmp_path):
    write(tmp_path / "app" / "manifest.json", '{"name": "app", "icons": []}')
    write(tmp_path / "app" / "src" / "main.js")
    before = contents(tmp_path / "app")
    with pytest.raises(UserError, match="has no manifest of this tool"):
        prepare(tmp_path / "app")
    assert contents(tmp_path / "app") == before


def test_all_files_are_listed(data):
    files = set(map(Path, contents(data)))
    assert tool.read_manifest(data)["files"] == files
    before_lists = tool.files_before_lists(tool.read_manifest(data)["recipe"])
    assert before_lists == {f for f in files if "relations" not in str(f)}


def test_a_data_set_from_before_there_were_lists_is_replaced(tmp_path, data):
    out = tmp_path / "digits"
    shutil.copytree(data, out)
    shutil.rmtree(out / "relations")  # came with the lists
    for annotations in (out / "annotations").glob("relations_*"):
        annotations.unlink()
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    del manifest["files"], manifest["recipe"]["relations"]
    write(out / "manifest.json", json.dumps(manifest))
    prepare(out, "--force")
    assert contents(out) == contents(data)


def test_a_lock_file_of_somebody_else_keeps_its_content(tmp_path):
    write(tmp_path / ".digits.lock")
    prepare(tmp_path / "digits")
    assert (tmp_path / ".digits.lock").read_text("utf-8") == "years of work"


def test_a_preview_that_cannot_be_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare(tmp_path / "digits", "--preview", str(tmp_path / "preview"))
    assert "--preview names a picture, as a.png" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "least"), [("crops", 10), ("relations", 4)])
def test_too_few_images_are_refused(tmp_path, capsys, kind, least):
    with pytest.raises(SystemExit):
        prepare(tmp_path / "digits", f"--val-{kind}", str(least - 1))
    assert f"--val-{kind} must be at least {least}" in capsys.readouterr().err


def test_a_killed_run_leaves_nothing_that_is_believed(tmp_path, data):
    out = tmp_path / "digits"
    run = prepare_beside(out, "--train-crops", "1000000")
    while not list(tmp_path.glob(".digits.*.partial/classification/train/*/*.png")):
        assert run.is_alive()
        time.sleep(0.02)
    run.kill(), run.join()
    assert run.exitcode == -signal.SIGKILL
    (partial,) = tmp_path.glob(".digits.*.partial")
    assert set(leftovers(out)) > {".digits.lock", partial.name}
    assert not out.exists()
    prepare(out)
    assert contents(out) == contents(data)
    assert not partial.exists()


@pytest.mark.parametrize("renames", [0, 1])
def test_a_rebuild_may_end_at_either_rename(tmp_path, monkeypatch, data, renames):
    """The old data set is in place, or none is; never a mixture."""
    out = prepare(tmp_path / "digits", "--seed", "1")
    old = contents(out)
    real, done = Path.rename, []

    def rename(path, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            prepare(out)
    assert contents(out) == old if renames == 0 else not out.exists()
    prepare(out)
    assert contents(out) == contents(data)
    assert leftovers(out) == [".digits.lock"]


def test_two_runs_at_once_build_once(tmp_path):
    out = tmp_path / "digits"
    runs = [prepare_beside(out) for _ in range(2)]
    for run in runs:
        run.join()
        assert run.exitcode == 0
    said = sorted(path.read_text("utf-8") for path in tmp_path.glob("*.txt"))
    assert [text.split(":")[0] for text in said] == ["Up to date", "Written"]


# Who reads it


def build_datasets(name: str, scope: str, data: Path) -> dict:
    """Build the train and val datasets of a base config with the host library."""
    pytest.importorskip(scope)
    from mmengine.config import Config
    from mmengine.registry import DATASETS, DefaultScope

    setup = importlib.import_module(f"{scope}.utils")
    setup.register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(ROOT / "configs" / "_base_" / "datasets" / f"{name}.py")
    datasets = {}
    with DefaultScope.overwrite_default_scope(scope):
        for split in ("train", "val"):
            settings = cfg[f"{split}_dataloader"]["dataset"]
            settings.data_root = settings.data_root.replace("data/digits", str(data))
            datasets[split] = DATASETS.build(settings)
    return datasets


def test_mmpretrain_reads_the_crops(data):
    datasets = build_datasets("digits_cls", "mmpretrain", data)
    assert {split: len(dataset) for split, dataset in datasets.items()} == {
        "train": 20,
        "val": 10,
    }
    for dataset in datasets.values():
        assert dataset.metainfo["classes"] == tuple("0123456789")
        for index in range(len(dataset)):
            sample = dataset[index]
            path = sample["data_samples"].img_path
            assert sample["inputs"].shape == (3, 64, 64)
            assert int(sample["data_samples"].gt_label) == int(Path(path).parent.name)
    bgr = datasets["val"][0]["inputs"].numpy()
    path = datasets["val"][0]["data_samples"].img_path
    assert np.array_equal(bgr[::-1].transpose(1, 2, 0), read(path))


def test_mmdet_and_mmseg_read_the_same_pixels(data):
    instances = build_datasets("digits_instance", "mmdet", data)["val"]
    maps = build_datasets("digits_seg", "mmseg", data)["val"]
    assert len(instances) == len(maps) == 6
    assert instances.metainfo["classes"] == maps.metainfo["classes"][1:]
    assert instances.metainfo["palette"] == maps.metainfo["palette"][1:]
    for index in range(6):
        sample, labelled = instances[index], maps[index]
        assert np.array_equal(sample["inputs"], labelled["inputs"])
        truth = sample["data_samples"].gt_instances
        drawn = np.zeros((128, 128), int)
        for mask, label in zip(truth.masks.masks, truth.labels, strict=True):
            drawn += mask * (int(label) + 1)
        assert np.array_equal(labelled["data_samples"].gt_sem_seg.data[0], drawn)
        wanted = {"img_id", "img_path", "ori_shape", "img_shape", "scale_factor"}
        assert wanted <= set(sample["data_samples"].metainfo_keys())


def test_mmpretrain_and_mmseg_read_the_same_relations(data):
    classified = build_datasets("digits_relations_cls", "mmpretrain", data)
    segmented = build_datasets("digits_relations_seg", "mmseg", data)
    assert segmented["val"].metainfo["classes"][NAMED] == "the named digit"
    for split, count in (("train", 20), ("val", 10)):
        path = data / "annotations" / f"relations_{split}.json"
        layouts = json.loads(path.read_text())
        assert len(layouts) == len(classified[split]) == len(segmented[split]) == count
        assert list(classified[split].metainfo["classes"]) == list("0123")
        for layout, one, other in zip(layouts, classified[split], segmented[split]):
            assert np.array_equal(one["inputs"], other["inputs"])
            assert Path(one["data_samples"].img_path).name == layout["file_name"]
            assert int(one["data_samples"].gt_label) == layout["named"]["label"]
            label_map = other["data_samples"].gt_sem_seg.data[0].numpy()
            mean = one["inputs"].numpy()[::-1][:, label_map == NAMED].mean(1)
            assert mean.argmax() == layout["key"]["ink"]


def test_training_scenes_are_scaled_and_cropped_to_at_most_128(data):
    np.random.seed(0)
    dataset = build_datasets("digits_instance", "mmdet", data)["train"]
    shapes = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        shapes.add(sample["inputs"].shape[1:])
        truth = sample["data_samples"].gt_instances
        boxes = truth.bboxes.tensor.numpy()
        for mask, box in zip(truth.masks.masks, boxes, strict=True):
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert len(shapes) > 1
    assert all(102 <= side <= 128 for shape in shapes for side in shape)


def evaluate(name: str, scope: str, data: Path, predict) -> dict[str, float]:
    """Score what ``predict`` makes of each val sample with the base's evaluator."""
    dataset = build_datasets(name, scope, data)["val"]
    from mmengine.config import Config
    from mmengine.evaluator import Evaluator
    from mmengine.registry import DefaultScope

    cfg = Config.fromfile(ROOT / "configs" / "_base_" / "datasets" / f"{name}.py")
    settings = cfg.val_evaluator
    if "ann_file" in settings:
        settings.ann_file = settings.ann_file.replace("data/digits", str(data))
    with DefaultScope.overwrite_default_scope(scope):
        evaluator = Evaluator(settings)
        evaluator.dataset_meta = dataset.metainfo
        for index in range(len(dataset)):
            sample = dataset[index]["data_samples"]
            predict(sample)
            evaluator.process([sample])
        return evaluator.evaluate(len(dataset))


@pytest.mark.parametrize("wrong", [False, True])
def test_the_evaluators_accept_the_truth_and_nothing_else(data, wrong):
    """The truth scores full marks, with every class taken for the next one none."""
    torch = pytest.importorskip("torch")

    def detect(sample):
        truth = sample.gt_instances
        masks = torch.from_numpy(truth.masks.masks).bool()
        sample.pred_instances = truth.new(
            bboxes=truth.bboxes.tensor,
            labels=(truth.labels + wrong) % 10,
            scores=torch.ones(len(truth)),
            masks=masks,
        )

    def segment(sample):
        labels = (sample.gt_sem_seg.data + wrong) % 11
        sample.pred_sem_seg = sample.gt_sem_seg.new(data=labels)

    def classify(sample):
        sample.set_pred_score(torch.eye(10)[(sample.gt_label[0] + wrong) % 10])

    scores = evaluate("digits_instance", "mmdet", data, detect)
    scores |= evaluate("digits_seg", "mmseg", data, segment)
    scores |= evaluate("digits_cls", "mmpretrain", data, classify)
    names = ("coco/bbox_mAP", "coco/segm_mAP", "mIoU", "accuracy/top1")
    expected = (0, 0, 0, 0) if wrong else (1, 1, 100, 100)
    assert [scores[name] for name in names] == pytest.approx(expected, abs=0.02)


def test_a_seed_that_is_none(tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare(tmp_path / "digits", "--seed", "-1")
    assert "--seed must not be negative, got -1" in capsys.readouterr().err
    assert not (tmp_path / "digits").exists()
