"""The way to the Hugging Face Hub and back, in local folders alone."""

import json

import pytest
import torch

pytest.importorskip("timm")
import timm
from huggingface_hub import constants, hub_mixin
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from setformer_mm.timm import SeTformerClassifier

SMALL = dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 4, 8], mlp_ratio=2)
ATTENTION = dict(reference_shape=[2, 3], epsilon=0.05)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def build(**fields) -> SeTformerClassifier:
    return SeTformerClassifier(
        **dict(arch=SMALL, attention=ATTENTION, num_classes=5) | fields
    )


def assert_same(loaded, model):
    """Equal to the bit, weights and logits."""
    weights = model.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, weights[name]), name
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), model.eval()(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip(dtype, tmp_path):
    model = build(in_chans=4, drop_path_rate=0.1).to(dtype)
    model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md"}
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["head.fc.weight"].dtype == dtype
    loaded = SeTformerClassifier.from_pretrained(tmp_path).to(dtype)
    assert not loaded.training
    assert loaded.stages[0].blocks[0].attn.extra_repr() == (
        model.stages[0].blocks[0].attn.extra_repr()
    )
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    if dtype == torch.float32:
        images = torch.randn(1, 4, 40, 56)
        with torch.no_grad():
            assert torch.equal(loaded(images), model.eval()(images))


def test_another_head_is_loaded_as_it_was_saved(tmp_path):
    model = build()
    model.reset_classifier(3, "max")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["num_classes"], config["global_pool"]) == (3, "max")
    assert_same(SeTformerClassifier.from_pretrained(tmp_path), model)


def test_missing_weights_are_an_error(tmp_path):
    build().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["norm.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="norm.bias"):
        SeTformerClassifier.from_pretrained(tmp_path)
    SeTformerClassifier.from_pretrained(tmp_path, strict=False)


def test_push_uploads_what_is_saved(monkeypatch):
    uploaded = {}

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), dict(repo_id=repo_id))

        def upload_folder(self, *, repo_id, folder_path, **_):
            uploaded[repo_id] = {
                path.name: path.read_bytes() for path in folder_path.iterdir()
            }
            return "commit"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    assert build().push_to_hub("somebody/setformer") == "commit"
    files = uploaded["somebody/setformer"]
    assert files.keys() == {"config.json", "model.safetensors", "README.md"}
    assert json.loads(files["config.json"])["arch"] == SMALL
    card = files["README.md"].decode()
    assert "library_name: setformer_mm" in card and "license: apache-2.0" in card


def test_timm_saves_and_loads_it_too(tmp_path):
    model = timm.create_model("setformer_mini", num_classes=3, drop_path_rate=0.1)
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert_same(loaded, model)
    model.save_pretrained(tmp_path / "own")
    assert_same(SeTformerClassifier.from_pretrained(tmp_path / "own"), model)
