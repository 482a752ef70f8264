"""The model in the lists and inferencers of the three host libraries."""

import pytest
import torch
from digit_pictures import digit_picture, scene
from sklearn.datasets import load_digits

pytest.importorskip("mmpretrain")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
from in_process import run_main
from mmengine.registry import DefaultScope
from mmpretrain import (
    ImageClassificationInferencer,
    get_model,
    inference_model,
    list_models,
)

import setformer_mm.mmpretrain  # noqa: F401  registers the models
from setformer_mm import configs

FAMILY = [f"setformer_{x}_in1k" for x in "bmst"]


@pytest.fixture(autouse=True)
def default_scope():
    """The inferencers set one for the whole process."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A committed checkpoint with its config in it, as a training publishes it."""

    def published(name: str) -> str:
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
        source = f"{configs.folder()}/digits/checkpoints/{name}.pth"
        target = tmp_path / f"{name}.pth"
        run_main("publish_checkpoint", source, target, "--config", configs.path(name))
        monkeypatch.chdir(tmp_path)
        return str(target)

    return published


def test_mmpretrain_lists_the_family_and_the_classifier_of_digits():
    assert list_models("*setformer*") == sorted([*FAMILY, "setformer_digits"])


@pytest.mark.parametrize("name", FAMILY)
def test_mmpretrain_builds_the_family(name):
    with torch.device("meta"):  # no time for random weights
        model = get_model(name)
    assert type(model.backbone).__name__ == "SeTformer"
    assert model.head.num_classes == 1000


def test_mmpretrain_classifies_with_the_committed_weights():
    truth = load_digits().target
    indices = (0, 1, 5, 9)
    pictures = [digit_picture(index) for index in indices]
    inferencer = ImageClassificationInferencer("setformer_digits", device="cpu")
    results = inferencer(pictures)
    assert [r["pred_class"] for r in results] == [str(truth[i]) for i in indices]
    single = inference_model("setformer_digits", pictures[0])
    assert single["pred_label"] == truth[0]


def test_detector_with_its_checkpoint_alone(published):
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(
        weights=published("mask_rcnn_setformer_digits"), device="cpu"
    )
    (found,) = inferencer(scene(), no_save_vis=True)["predictions"]
    assert {3, 6} <= {
        label for label, score in zip(found["labels"], found["scores"]) if score > 0.5
    }
    assert inferencer.model.dataset_meta["classes"][3] == "3"


def test_segmentor_with_its_checkpoint_alone(published):
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(
        None, weights=published("upernet_setformer_digits"), device="cpu"
    )
    found = inferencer(scene())["predictions"]
    assert found.shape == (128, 128)
    assert (found == 0).mean() > 0.5 and {4, 7} <= set(found[40:88].flatten().tolist())
