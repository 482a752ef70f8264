"""Scenes of digits on photographs: how they are composed, annotated and shown."""

import colorsys
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from setformer_mm.data.digits import (
    SPLITS,
    Rng,
    Sources,
    random_background,
    random_stroke,
)

SCENE_SIZE, SCENE_HEIGHTS, MAX_DIGITS = 128, (20, 64), 6  # pixels
MIN_VISIBLE_SHARE, MIN_VISIBLE_PIXELS = 0.6, 40  # what occlusion must leave of a digit
MIN_CONTRAST, MIN_CONTRAST_SHARE = 40, 0.85  # grey levels from ground to stroke


def random_colour(rng: Rng) -> np.ndarray:
    """Draw a light ink with a slight tint, (3,) in 0..255.

    Ink of either polarity makes the first minutes of a training, which is what this
    data is for, a wait at chance level.
    """
    return rng.uniform(180, 255, 3)


@dataclass
class Scene:
    """A picture under construction; later digits occlude earlier ones."""

    image: np.ndarray  # (size, size, 3) float32 in 0..255
    owner: np.ndarray  # (size, size) int8: the digit visible at a pixel, or -1
    labels: list[int] = field(default_factory=list)
    needed: list[float] = field(default_factory=list)  # pixels that must stay visible
    visible: list[int] = field(default_factory=list)  # pixels

    def try_to_add(self, label: int, stroke: np.ndarray, rng: Rng) -> bool:
        """Draw a digit where it stands out and hides no other; false if that fails."""
        (height, width), size = stroke.shape, len(self.image)
        mask = stroke > 0.5
        area = int(mask.sum())
        if max(height, width) > size or area < MIN_VISIBLE_PIXELS:
            return False
        for _ in range(20):
            top, left = rng.integers(0, [size - height + 1, size - width + 1])
            window = np.s_[top : top + height, left : left + width]
            opacity = rng.uniform(0.75, 1) * stroke[..., None]
            change = opacity * (random_colour(rng) - self.image[window])
            contrast = change[mask].mean(-1)
            if np.mean(contrast > MIN_CONTRAST) < MIN_CONTRAST_SHARE:
                continue
            owners = self.owner[window]
            hidden = np.bincount(owners[mask] + 1, minlength=len(self.labels) + 1)[1:]
            if np.any(self.visible - hidden < self.needed):
                continue
            self.image[window] += change
            owners[mask] = len(self.labels)
            self.labels.append(label)
            self.needed.append(max(MIN_VISIBLE_SHARE * area, MIN_VISIBLE_PIXELS))
            self.visible = [*(self.visible - hidden), area]
            return True
        return False


def compose(
    sources: Sources, size: int, heights: tuple, labels: list[int], rng: Rng
) -> Scene:
    """Draw digits of these classes on a photograph; at least one finds its place."""
    while True:
        owner = np.full((size, size), -1, np.int8)
        scene = Scene(random_background(sources.photos, size, rng), owner)
        for label in labels:
            digit = rng.choice(sources.digits[label])
            stroke = random_stroke(digit, np.exp(rng.uniform(*np.log(heights))), rng)
            scene.try_to_add(label, stroke, rng)
        if scene.labels:
            return scene


def instance_annotation(visible: np.ndarray, label: int) -> dict:
    """Describe a visible mask, (H, W) bool, in COCO's terms, exactly."""
    code = rle.encode(np.asfortranarray(visible, np.uint8))
    return dict(
        category_id=label + 1,
        bbox=rle.toBbox(code).tolist(),
        area=int(rle.area(code)),
        segmentation=dict(size=code["size"], counts=code["counts"].decode()),
        iscrowd=0,
    )


def draw_preview(root: Path, columns: int = 8) -> Image.Image:
    """Draw scenes of both splits, each above itself with masks, boxes and classes."""
    side = 2 * SCENE_SIZE
    sheet = Image.new("RGB", (columns * side, 8 * side))
    for row, split in enumerate(SPLITS * 2):
        path = root / "annotations" / f"instances_{split}.json"
        coco = json.loads(path.read_text(encoding="utf-8"))
        first = row // 2 * columns
        for column, image in enumerate(coco["images"][first : first + columns]):
            scene = Image.open(root / "scenes" / split / image["file_name"])
            scene = scene.resize((side, side))
            corner = (column * side, row * 2 * side)
            sheet.paste(scene, corner)
            for annotation in coco["annotations"]:
                if annotation["image_id"] == image["id"]:
                    draw_instance(scene, annotation)
            sheet.paste(scene, (corner[0], corner[1] + side))
    return sheet


def draw_instance(scene: Image.Image, annotation: dict) -> None:
    """Draw an annotation into a scene that was enlarged twice."""
    digit = annotation["category_id"] - 1
    colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(digit / 10, 1, 1))
    mask = Image.fromarray(255 * rle.decode(annotation["segmentation"]))
    scene.paste(colour, mask=mask.resize(scene.size, Image.Resampling.NEAREST))
    x, y, width, height = (2 * value for value in annotation["bbox"])
    pen = ImageDraw.Draw(scene)
    pen.rectangle((x, y, x + width - 1, y + height - 1), outline=colour)
    pen.text((x + 2, y), str(digit), "white", stroke_width=2, stroke_fill="black")
