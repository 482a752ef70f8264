"""Published checkpoints, the committed ones, and one of a server: what loads."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import load_state_dict as mmengine_load
from PIL import Image

from setformer_mm import configs
from setformer_mm.models import SeTAttention
from setformer_mm.utils.checkpoints import load_fitting_weights, read_checkpoint
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import read_result
from toolkit.launch import build_model, read_config

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = [path.stem for path in (ROOT / "configs/digits/checkpoints").glob("*.pth")]
GRIDS = (2, 8), (4, 4), (4, 4)


def test_what_is_published_keeps_the_grid_of_references(tool, tmp_path):
    source, target, same = (
        SeTAttention(8, 2, grid) for grid in ((2, 8), (4, 4), (4, 4))
    )
    torch.save(dict(state_dict=source.state_dict()), tmp_path / "source.pth")
    tool("publish_checkpoint", tmp_path / "source.pth", tmp_path / "target.pth")
    load_fitting_weights(target, str(tmp_path / "target.pth"))
    same.load_state_dict(source.state_dict())
    assert torch.equal(target.references, same.references)
    assert not torch.equal(target.references, source.references)


def test_weights_too_large_to_publish(tool, tmp_path):
    torch.save(dict(weight=torch.tensor([1e5])), tmp_path / "source.pth")
    paths = tmp_path / "source.pth", tmp_path / "target.pth"
    with pytest.raises(UserError, match="weight holds numbers .* too large .*float16"):
        tool("publish_checkpoint", *paths, "--dtype", "fp16")
    assert not paths[1].exists()
    tool("publish_checkpoint", *paths, "--dtype", "bf16")


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_checkpoints_load_without_a_word(name, capfd):
    """They were made before the grids of references were stored."""
    model = build_model(read_config(str(ROOT / f"configs/digits/{name}.py")))
    weights = read_checkpoint(str(ROOT / f"configs/digits/checkpoints/{name}.pth"))[
        "state_dict"
    ]
    capfd.readouterr()
    mmengine_load(model, weights, strict=True)
    assert capfd.readouterr() == ("", "")
    for key, value in dict(model.named_parameters()).items():
        assert torch.equal(value, weights[key].float()), key


@pytest.mark.parametrize("form", ["safetensors", "compiled", "model", "not finite"])
def test_forms_that_are_tested(form, tool, toy, tmp_path):
    """mmengine's own later load of the file understands as much."""
    config = toy / "toy_epochs.py"
    tool("train", config, "--work-dir", tmp_path / "run")
    whole = str(tmp_path / "run" / "epoch_4.pth")
    weights = read_checkpoint(whole)["state_dict"]
    path = tmp_path / "file.pth"
    if form == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(weights, path)
    elif form == "compiled":
        torch.save({f"module._orig_mod.{k}": v for k, v in weights.items()}, path)
    elif form == "model":
        torch.save(dict(model=weights, epoch=4), path)
    else:
        weights["head.bias"][0] = torch.nan
        torch.save(weights, path)
        with pytest.raises(UserError, match="NaN or .* the first is head.bias"):
            tool("test", config, path, "--work-dir", tmp_path / "test")
        assert not (tmp_path / "test").exists()
        return
    for checkpoint, name in ((whole, "whole"), (path, "form")):
        tool("test", config, checkpoint, "--work-dir", tmp_path / name)
    results = [
        read_result(tmp_path / x / "test_result.json") for x in ("whole", "form")
    ]
    assert results[0].metrics == results[1].metrics


def test_predict_takes_a_url_and_only_what_fits(tool, tmp_path, served, capsys):
    config = ROOT / "configs/digits/setformer_digits.py"
    checkpoint = torch.load(ROOT / "configs/digits/checkpoints/setformer_digits.pth")
    torch.save(checkpoint, tmp_path / "whole.pth")
    del checkpoint["state_dict"]["head.fc.weight"]
    torch.save(checkpoint, tmp_path / "partial.pth")
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    flags = ["--config", config, "--out-dir", tmp_path / "out", "--device", "cpu"]

    def predict(*more):
        tool("predict", tmp_path / "picture.png", *flags, "--checkpoint", *more)

    with pytest.raises(UserError, match="1 parameters .* head.fc.weight; --"):
        predict(f"{served}/partial.pth")
    assert not (tmp_path / "out").exists()
    predict(f"{served}/partial.pth", "--allow-missing")
    assert "head.fc.weight; they stay random" in capsys.readouterr().err
    predict(f"{served}/whole.pth")
    assert (tmp_path / "out" / "vis" / "picture.png").exists()


@pytest.mark.parametrize("text", ["import os\na = 1", None])
def test_a_config_that_would_run_is_not_published(text, tool, tmp_path, capsys):
    source, target = tmp_path / "source.pth", tmp_path / "target.pth"
    meta = {} if text is None else dict(cfg=text)
    torch.save(dict(meta=meta, state_dict=dict(weight=torch.ones(1))), source)
    tool("publish_checkpoint", source, target)
    assert "cfg" not in torch.load(target)["meta"]
    assert "without a config" in capsys.readouterr().out


def test_a_config_of_values_is_published(tool, tmp_path, capsys):
    source, target = tmp_path / "source.pth", tmp_path / "target.pth"
    meta = dict(cfg="model = dict(type='A', scale=(1, 2))\n")
    torch.save(dict(meta=meta, state_dict=dict(weight=torch.ones(1))), source)
    tool("publish_checkpoint", source, target)
    assert torch.load(target)["meta"] == meta
    assert "without a config" not in capsys.readouterr().out
    config = configs.path("setformer_digits")
    tool("publish_checkpoint", source, target, "--config", config)
    assert torch.load(target)["meta"]["cfg"] == read_config(config).pretty_text
