"""tools/visualize_transport.py: what is drawn, for all three tasks, and mistakes."""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from setformer_mm.models import SeTformer
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.transport import record_transports
from toolkit import inspected_model, transport_pictures
from toolkit.launch import read_config

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "tools" / "visualize_transport.py"
spec = importlib.util.spec_from_file_location("tool_visualize_transport", PATH)
visualize = importlib.util.module_from_spec(spec)
spec.loader.exec_module(visualize)

ARCH = dict(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4), mlp_ratio=1)
MINI = ("mask_rcnn_setformer_digits", "upernet_setformer_digits", "setformer_digits")


@pytest.fixture
def image(tmp_path) -> Path:
    """A red picture with noise in it, wider than high."""
    pixels = np.random.randint(0, 60, (90, 150, 3), np.uint8)
    pixels[..., 0] += 180
    Image.fromarray(pixels).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def build_backbone(**attention) -> SeTformer:
    attention = dict(reference_shape=((2, 3), (4, 4), (2, 2), (2, 3))) | attention
    return SeTformer(ARCH, attention=attention).eval()


def choose(backbone: SeTformer, **flags) -> list:
    flags = dict(stage=None, block=None, head=None, references=None) | flags
    return visualize.choose_views(backbone, argparse.Namespace(**flags))


def test_draws_the_committed_detector(tool, image, tmp_path, capsys):
    flags = ["--stage", 0, "--references", 5, 9, "--points", "0.9,0"]
    out = tmp_path / "out"
    tool("visualize_transport", image, *flags, "--out", out, "--format", "jpg")
    sizes = {path.name: Image.open(path).size for path in out.iterdir()}
    of_references = {
        f"{way}{positions}.jpg"
        for way in ("references", "return_references")
        for positions in ("", "_without_positions")
    }
    assert sizes.keys() == of_references | {"attention.jpg", "sinkhorn.jpg", "rank.jpg"}
    # One row; the picture and two references, or the picture and one token.
    size = sizes["references.jpg"]
    assert {sizes[name] for name in of_references} == {size}
    assert sizes["attention.jpg"] == (pytest.approx(2 / 3 * size[0], abs=2), size[1])
    printed = capsys.readouterr().out
    assert [printed.count(f"stage {i}, block") for i in range(4)] == [1, 1, 3, 1]


@pytest.mark.parametrize("name", MINI)
def test_shows_what_the_backbone_sees(image, name):
    """The picture is that of the pipeline and the preprocessor, in colour and size."""
    path = str(ROOT / f"configs/digits/{name}.py")
    cfg = read_config(path)
    model, backbone = inspected_model.build_with_backbone(cfg, path)
    inputs, picture = inspected_model.preprocess(cfg, model, str(image))
    assert isinstance(backbone, SeTformer)
    assert inputs.shape[2:] == picture.shape[:2]
    preprocessor = model.data_preprocessor
    seen = (inputs[0] * preprocessor.std + preprocessor.mean).permute(1, 2, 0)
    assert picture[..., 0].mean() > 150 > 60 > picture[..., 1:].mean()
    np.testing.assert_allclose(seen.numpy(), picture, atol=1e-3)


def test_shows_the_padding(image):
    path = str(ROOT / "configs/digits/mask_rcnn_setformer_digits.py")
    cfg = read_config(path)
    cfg.model.data_preprocessor.pad_size_divisor = 32
    model, _ = inspected_model.build_with_backbone(cfg, path)
    inputs, picture = inspected_model.preprocess(cfg, model, str(image))
    assert picture.shape == (96, 128, 3) and inputs.shape[2:] == (96, 128)
    # 90 x 150 is resized to 77 x 128.
    assert picture[:77].any(-1).all() and not picture[77:].any()


def test_maps_are_those_of_the_transport(monkeypatch, tmp_path):
    figures = {}
    monkeypatch.setattr(
        transport_pictures,
        "save_figure",
        lambda figure, path, dpi: figures.update({path.name: figure}),
    )
    backbone = build_backbone()
    attention = backbone.stages[1].blocks[0].attn
    (transport,) = record_transports(backbone, [attention], torch.rand(1, 3, 64, 96))
    transports = {(1, 0): transport}
    picture = np.zeros((64, 96, 3), np.uint8)
    views = choose(backbone, stage=1, block=0, head=[1], references=[9, 2])
    for way in ("in", "back"):
        transport_pictures.draw_references(
            "", views, transports, way, picture, Path(way)
        )
    transport_pictures.draw_attention(
        "", views, transports, picture, [(0.5, 0.99)], Path("attention")
    )

    to_tokens, from_tokens = transport.factors
    for way, maps in (("in", from_tokens[1]), ("back", to_tokens[1].T)):
        for panel, reference in zip(figures[way].axes[1:], (9, 2)):
            heat = (maps[reference] / maps[reference].max()).reshape(8, 12)
            np.testing.assert_allclose(panel.images[1].get_array(), heat, atol=1e-6)
            # The circle is at the reference's cell of the 4 x 4 grid.
            row, col = divmod(reference, 4)
            x, y = np.concatenate(panel.lines[0].get_data())
            assert (x + 0.5) / 96 == pytest.approx((col + 0.5) / 4)
            assert (y + 0.5) / 64 == pytest.approx((row + 0.5) / 4)
    (token,) = figures["attention"].axes[1:]
    row = transport.attention_rows([7 * 12 + 6])[1, 0]
    heat = (row / row.max()).reshape(8, 12)
    np.testing.assert_allclose(token.images[1].get_array(), heat, atol=1e-6)


def test_padding_is_left_out_of_maps(monkeypatch):
    figures = []
    monkeypatch.setattr(
        transport_pictures, "save_figure", lambda figure, *_: figures.append(figure)
    )
    backbone = build_backbone()
    attention = backbone.stages[0].blocks[0].attn
    inputs = torch.nn.functional.pad(torch.rand(1, 3, 40, 64), (0, 32, 0, 24))
    (transport,) = record_transports(backbone, [attention], inputs)
    picture = np.zeros((64, 96, 3), np.uint8)
    views = choose(backbone, stage=0, head=[0], references=[5])
    transport_pictures.draw_references(
        "", views, {(0, 0): transport}, "in", picture, Path("in")
    )
    panel = figures[0].axes[1]
    grey, heat = panel.images
    assert panel.get_xlim() == (-0.5, 95.5) and panel.get_ylim() == (63.5, -0.5)
    assert heat.get_array().shape == (10, 16)
    assert heat.get_extent() == [-0.5, 63.5, 39.5, -0.5]
    # The circle is at the centre of the last cell of the 2 x 3 grid.
    x, y = np.concatenate(panel.lines[0].get_data()) + 0.5
    assert (x, y) == (pytest.approx(64 * 5 / 6), pytest.approx(40 * 3 / 4))


def test_rows_of_the_sheets():
    backbone = build_backbone()
    assert [view[:2] for view in choose(backbone)] == [
        ((0, 0), 0),
        ((1, 1), 0),
        ((2, 0), 0),
        ((3, 0), 0),
    ]
    assert [view.references for view in choose(backbone)] == [
        [0, 1, 2, 3, 4, 5],
        [4, 6, 7, 12, 14, 15],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
    ]
    chosen = choose(backbone, stage=3, references=[5])
    assert chosen == [((3, 0), head, [5]) for head in range(4)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(stage=4), r"--stage must be in 0\.\.3, got 4"),
        (dict(stage=1, block=2), r"--block must be in 0\.\.1 in stage 1, got 2"),
        (dict(block=1), r"--block must be in 0\.\.0 in stage 0, got 1"),
        (dict(head=[0, -1]), r"--head must be in 0\.\.0 in stage 0, got -1"),
        (dict(references=[5, 6]), r"--references must be in 0\.\.5 in stage 0, got 6"),
    ],
)
def test_numbers_out_of_range(flags, message):
    with pytest.raises(UserError, match=message):
        choose(build_backbone(), **flags)


def test_mistakes_in_files(tool, image, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="picture .*none.png does not exist"):
        tool("visualize_transport", tmp_path / "none.png", "--out", out)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(UserError, match="text.png is no picture"):
        tool("visualize_transport", text, "--out", out)
    config = ROOT / "configs/digits/setformer_digits.py"
    other = ROOT / "configs/digits/checkpoints/upernet_setformer_digits.pth"
    flags = ["--out", out, "--config", config]
    with pytest.raises(UserError, match="does not fit the model"):
        tool("visualize_transport", image, *flags, "--checkpoint", other)
    with pytest.raises(UserError, match="none.pth does not exist"):
        tool("visualize_transport", image, *flags, "--checkpoint", "none.pth")
    with pytest.raises(SystemExit):
        tool("visualize_transport", image, *flags)
    assert not out.exists()


@pytest.mark.parametrize("text", ["0.5", "1,0", "a,b", "-0.1,0", "nan,0"])
def test_points(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"in \[0, 1\), got"):
        visualize.to_point(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(attention=dict(type="SoftmaxAttention")),
            "must be SeTAttention, got SoftmaxAttention in a.py",
        ),
        (
            dict(attention=dict(type="FirstSeTAttention")),
            "must be SeTAttention, got FirstSeTAttention in a.py",
        ),
        (dict(type="ResNet", depth=18), "must be SeTformer, got ResNet in a.py"),
    ],
)
def test_other_models(fields, message):
    cfg = read_config(str(ROOT / "configs/digits/setformer_digits.py"))
    cfg.model.backbone = (
        dict(type="SeTformer", arch=ARCH) if "type" not in fields else {}
    )
    cfg.model.backbone.update(fields)
    with pytest.raises(UserError, match=message):
        inspected_model.build_with_backbone(cfg, "a.py")


def test_config_without_model():
    init_default_scope("mmengine")
    with pytest.raises(UserError, match="the config a.py has no field model"):
        inspected_model.build_with_backbone(
            Config(dict(test_dataloader=dict())), "a.py"
        )
