"""tools/predict.py: every picture that can be is drawn, the others are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setformer_mm.utils.errors import UserError
from toolkit.pictures import read_picture

ROOT = Path(__file__).resolve().parents[2]
SEGMENTER = ROOT / "configs/digits/upernet_setformer_digits.py"


def save(path: Path, *shape: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.randint(0, 256, (*shape, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize(
    ("name", "label_maps"),
    [
        ("setformer_digits", False),
        ("mask_rcnn_setformer_digits", False),
        ("upernet_setformer_digits", True),
    ],
)
def test_a_folder_of_good_and_bad_pictures(
    tool, tmp_path, capsys, monkeypatch, name, label_maps
):
    monkeypatch.chdir(tmp_path)
    pictures = [Path("x.png"), Path("a/x.png"), Path("a/x.bmp")]
    for path in pictures:
        save("pictures" / path, 48, 64)
    Path("pictures/a/page.jpg").write_text("<html>404</html>")
    Path("pictures/empty.png").touch()
    flags = ["--config", ROOT / f"configs/digits/{name}.py", "--out-dir", "out"]
    flags += [
        "--checkpoint",
        ROOT / f"configs/digits/checkpoints/{name}.pth",
        "--device",
        "cpu",
    ]
    # Once more: what was drawn before is replaced, and not drawn upon.
    for _ in range(1 + label_maps):
        with pytest.raises(UserError) as error:
            tool("predict", ".", *flags)
        assert str(error.value) == (
            "2 pictures were left out:\n"
            f"  {tmp_path}/pictures/a/page.jpg is no picture that Pillow reads\n"
            f"  {tmp_path}/pictures/empty.png is empty"
        )
        assert "3 pictures drawn in out/vis" in capsys.readouterr().out
    files = {path for path in Path("out").rglob("*") if path.is_file()}
    maps = {Path("out/pred/pictures", f"{path}.png") for path in pictures}
    drawings = {"out/vis/pictures" / path for path in pictures}
    assert files == drawings | (maps if label_maps else set())
    for path in drawings:
        height, width, _ = read_picture(path).shape
        assert width / height == pytest.approx(64 / 48, abs=0.01)
    for path in maps & files:
        labels = np.asarray(Image.open(path))
        assert labels.shape == (48, 64) and labels.max() <= 10


@pytest.fixture
def predict(load_tool):
    return load_tool("predict")


def test_colours_are_those_of_the_picture(predict, tmp_path):
    pixels = save(tmp_path / "x.png", 8, 9)
    found = []

    def draw(picture: np.ndarray):
        found.append(picture)
        return picture[..., ::-1], None

    failures = predict.draw_all(
        {tmp_path / "x.png": Path("x.png")}, draw, tmp_path / "out", tmp_path / "maps"
    )
    assert not failures and np.array_equal(found[0], pixels[..., ::-1])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/x.png")), pixels)


def test_picture_that_the_pipeline_does_not_take(predict, tmp_path):
    """As one of 2000 x 6 pixels, which scaling makes 0 pixels high."""
    images = {}
    for name, shape in (("a.png", (6, 2000)), ("b.png", (5, 5)), ("c.png", (6, 2000))):
        save(tmp_path / name, *shape)
        images[tmp_path / name] = Path(name)

    def draw(picture: np.ndarray):
        if len(picture) == 6:
            raise RuntimeError("scaled to\n nothing")
        return picture, picture[..., 0]

    drawings, maps = tmp_path / "out", tmp_path / "maps"
    assert predict.draw_all(images, draw, drawings, maps) == [
        f"{tmp_path / name} of 2000 x 6 pixels does not pass this config's pipeline "
        "and model: scaled to nothing"
        for name in ("a.png", "c.png")
    ]
    assert [path.name for path in drawings.iterdir()] == ["b.png"]
    assert [path.name for path in maps.iterdir()] == ["b.png.png"]


def test_full_disk_is_no_fault_of_the_picture(predict, tmp_path, monkeypatch):
    save(tmp_path / "x.png", 8, 9)

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(predict, "save_picture", fail)
    with pytest.raises(OSError, match="No space left"):
        images = {tmp_path / "x.png": Path("x.png")}
        predict.draw_all(images, lambda p: (p, None), tmp_path, tmp_path)


def test_missing_device(tool, tmp_path):
    flags = ["--config", "none.py", "--checkpoint", "none.pth", "--device", "nonsense"]
    with pytest.raises(UserError, match="--device nonsense cannot be used"):
        tool("predict", tmp_path, *flags, "--out-dir", tmp_path / "out")


def test_missing_pictures(tool, tmp_path):
    flags = ["--config", "none.py", "--checkpoint", "none.pth"]
    with pytest.raises(UserError, match="none.png does not exist"):
        tool("predict", tmp_path / "none.png", *flags)
    with pytest.raises(UserError, match="there are no pictures in"):
        tool("predict", tmp_path, *flags)


@pytest.mark.parametrize("part", ["vis", "pred"])
def test_pictures_behind_a_link_are_not_written_over(tool, tmp_path, part):
    name = "x.png" if part == "vis" else "x.png.png"
    save(tmp_path / "pictures" / "x.png", 8, 9)
    save(tmp_path / "pictures" / name, 8, 9)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / part).symlink_to(tmp_path / "pictures")
    flags = ["--config", SEGMENTER, "--checkpoint", "none.pth"]
    with pytest.raises(UserError, match=f"{name} is read and would be written over"):
        tool("predict", tmp_path / "pictures", *flags, "--out-dir", tmp_path / "out")


def test_names_too_long_for_label_maps_are_found_before_anything_is_drawn(
    tool, tmp_path
):
    """A label map's is four letters longer than its picture's."""
    save(tmp_path / "pictures" / f"{'x' * 248}.png", 8, 8)
    flags = ["--config", SEGMENTER, "--checkpoint", "x.pth"]
    with pytest.raises(UserError, match=r"a drawing has too long a name: .*\.png\.png"):
        tool("predict", tmp_path / "pictures", *flags, "--out-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
