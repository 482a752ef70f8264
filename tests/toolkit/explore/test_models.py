"""What is looked at is what the model computes, in the picture's coordinates."""

from pathlib import Path

import numpy as np
import pytest
import torch

from setformer_mm.ops import transport_plan
from setformer_mm.utils.errors import UserError
from toolkit.explore.models import (
    layout,
    load_explorable,
    reference_view,
    token_view,
)

FOLDER = Path(__file__).resolve().parents[3] / "configs/digits"


def look_at(model, picture):
    return model.look(np.ascontiguousarray(picture[..., ::-1]), "noise.png")


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
def test_the_picture_is_what_the_model_sees(models, picture, scope):
    look = look_at(models[scope], picture)
    height, width = look.picture.shape[:2]
    if scope == "mmpretrain":
        assert (height, width) == (64, 64)
        assert look.prediction.overlay is None
        scores = [item["score"] for item in look.prediction.items]
        assert sum(scores) <= 1 + 1e-6 and scores == sorted(scores, reverse=True)
    else:
        assert (height, width) == (77, 128)
        assert look.prediction.overlay.shape == (77, 128, 4)
        # The pipeline has made it smaller: what it was lies under what is shown.
        coarse = picture[: 90 // 45 * 45].reshape(2, 45, 2, 75, 3).mean((1, 3))
        halves = look.picture[:76].reshape(2, 38, 2, 64, 3).mean((1, 3))
        np.testing.assert_allclose(halves, coarse, atol=8)
    for i, stage in enumerate(layout(look)):
        assert stage["stride"] == 4 * 2**i
        assert stage["rows"] == -(-height // stage["stride"])
        assert stage["columns"] == -(-width // stage["stride"])
    if scope == "mmseg":
        assert sum(item["score"] for item in look.prediction.items) == pytest.approx(1)


def test_boxes_lie_in_the_picture(models, picture, monkeypatch):
    model = models["mmdet"]
    monkeypatch.setitem(model.model.roi_head.test_cfg, "score_thr", 0.0)
    found = look_at(model, picture).prediction
    boxes = np.array([item["box"] for item in found.items])
    assert found.kind == "instances" and len(boxes) == 20
    assert boxes.min() >= 0 and (boxes[:, 2] <= 128).all() and (boxes[:, 3] <= 77).all()


@pytest.mark.parametrize("block", [(0, 0), (2, 1), (3, 0)])
def test_weights_are_those_of_the_operator(models, picture, block, monkeypatch):
    """Both plans of a padded picture, against the operator on its valid part alone."""
    model = models["mmdet"]
    monkeypatch.setattr(model.model.data_preprocessor, "pad_size_divisor", 64)
    attention, seen = model.attentions[block], {}
    with attention.register_forward_hook(
        lambda _, args, out: seen.update(x=args[0], valid=args[2], out=out)
    ):
        look = look_at(model, picture)
    rows, columns = seen["valid"][0].tolist()
    assert rows < seen["x"].shape[1]
    x = attention.project(seen["x"], seen["valid"])[:, :rows, :columns].double()
    heads, dim = attention.num_heads, attention.head_dim
    x = x.reshape(1, rows * columns, heads, dim)
    parameters = [p.double() for p in attention.folding_parameters()]
    transport = look.recorded[block].transport()
    token = rows * columns // 2
    views = token_view(transport, token)
    for way in ("in", "back"):
        plan = transport_plan(
            x, *parameters, way=way, num_iters=attention.num_iters,
            epsilon=attention.epsilon, alpha=attention.alpha, tau=None,
        )  # fmt: skip
        expected = plan[0, :, token] * rows * columns
        shown = torch.tensor([view[f"mass_{way}"] for view in views])
        torch.testing.assert_close(shown, expected.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(shown.sum(-1), torch.ones(heads))
    # And the output of the attention is that of these plans.
    output = attention.out_proj(transport.output().reshape(rows, columns, -1).float())
    theirs = seen["out"][0, :rows, :columns]
    torch.testing.assert_close(output, theirs, rtol=1e-3, atol=1e-4)


def test_views_fit_together(models, picture):
    transport = look_at(models["mmpretrain"], picture).recorded[1, 0].transport()
    token, count = 19, 64
    for head, view in enumerate(token_view(transport, token)):
        for name in ("weight_back", "receives"):
            assert sum(view[name]) == pytest.approx(1)
        received = np.zeros(count)
        for j in range(16):
            served = reference_view(transport, head, j)
            assert served["serves"][token] == pytest.approx(view["weight_back"][j])
            collected = served["collects"][token]
            assert collected * count == pytest.approx(view["weight_in"][j])
            received += view["weight_back"][j] * np.array(served["collects"])
        np.testing.assert_allclose(received, view["receives"], rtol=1e-9)
        others = transport.attention_rows(range(count))[head, :, token]
        np.testing.assert_allclose(view["gives"], others, rtol=1e-9)


def test_samples_are_of_the_test_data(models, monkeypatch, tmp_path, png):
    folder = tmp_path / "data/digits/classification/val/3"
    folder.mkdir(parents=True)
    for i in range(9):
        (folder / f"{i}.png").write_bytes(png)
    (folder / "2.png").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    names = "setformer_digits.py", "checkpoints/setformer_digits.pth"
    files = [FOLDER / name for name in names]
    model = load_explorable(*map(str, files), device="cpu", score_thr=0.3)
    assert [path.name for path in model.samples] == [
        f"{i}.png" for i in (0, 1, 3, 4, 5)
    ]


def test_mistakes(models, picture, tmp_path):
    config = FOLDER / "setformer_digits.py"
    other = FOLDER / "checkpoints/upernet_setformer_digits.pth"

    def load(config, checkpoint):
        load_explorable(str(config), str(checkpoint), device="cpu", score_thr=0.3)

    with pytest.raises(UserError, match="does not fit the model"):
        load(config, other)
    with pytest.raises(UserError, match=r"none\.py does not exist"):
        load(tmp_path / "none.py", other)
    edits = {
        "backbone must be SeTformer, got ResNet": (
            "model = dict(backbone=dict(_delete_=True, type='ResNet', depth=18))"
        ),
        "attention must be SeTAttention, got SoftmaxAttention": (
            "model = dict(backbone=dict(attention=dict(type='SoftmaxAttention')))"
        ),
        "default_scope must be one of .*, got 'mmpose'": "default_scope = 'mmpose'",
    }
    for message, edit in edits.items():
        edited = tmp_path / "edited.py"
        edited.write_text(f"_base_ = {str(config)!r}\n{edit}\n")
        with pytest.raises(UserError, match=message):
            load(edited, FOLDER / "checkpoints/setformer_digits.pth")
    with pytest.raises(UserError, match="noise.png of 0 x 4 pixels does not pass the"):
        models["mmdet"].look(np.zeros((4, 0, 3), np.uint8), "noise.png")


def test_a_picture_that_the_pipeline_leaves_large(models, monkeypatch, picture):
    monkeypatch.setattr("toolkit.explore.models.MAX_PIXELS", 9000)
    with pytest.raises(UserError, match="reaches the model with 128 x 77 pixels, more"):
        look_at(models["mmseg"], picture)


def test_models_that_look_twice(models, picture, monkeypatch):
    model = models["mmseg"]
    step = model.model.test_step
    monkeypatch.setattr(model.model, "test_step", lambda data: [step(data), step(data)])
    with pytest.raises(UserError, match="must look at one picture, as a whole and onc"):
        look_at(model, picture)
