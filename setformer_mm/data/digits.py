"""What the embedded data sets are drawn from: handwritten digits and photographs.

Both come with scikit-learn. Every function that draws takes a generator, and gives the
same bytes for the same one.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

SPLITS = ("train", "val")
TRAIN_WIDTH = 0.7  # left share of each photograph; the rest is for validation
Rng = np.random.Generator


@dataclass
class Sources:
    """What one split draws from."""

    digits: list[np.ndarray]  # one array (n, 8, 8) a class, ink in 0..1
    photos: list[Image.Image]


def load_sources(split: str) -> Sources:
    """Load the digit images and photograph regions of one split.

    The split does not depend on the seed, so no data set made here shows in training
    what another one holds out: every fifth image of each class, and the right part of
    each photograph.
    """
    digits = load_digits()
    of_class = [digits.images[digits.target == label] / 16 for label in range(10)]
    photos = load_sample_images().images
    cut = round(TRAIN_WIDTH * photos[0].shape[1])
    region = np.s_[:, :cut] if split == "train" else np.s_[:, cut:]
    return Sources(
        [xs[(np.arange(len(xs)) % 5 == 0) == (split == "val")] for xs in of_class],
        [Image.fromarray(photo[region]) for photo in photos],
    )


def random_background(photos: list[Image.Image], size: int, rng: Rng) -> np.ndarray:
    """Cut a random square out of a photograph, (size, size, 3) float32 in 0..255."""
    photo = photos[rng.integers(len(photos))]
    side = rng.uniform(0.6, 1.5) * size
    left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    box = (left, top, left + side, top + side)
    patch = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    background = np.asarray(patch, np.float32)
    if rng.random() < 0.5:
        background = background[:, ::-1]
    return np.clip(background * rng.uniform(0.3, 0.9), 0, 255)


def random_stroke(digit: np.ndarray, height: float, rng: Rng) -> np.ndarray:
    """Enlarge an 8x8 digit to a smooth, slightly turned and slanted stroke.

    Returns:
        The stroke's coverage of each pixel, (h, w) float32 in 0..1 and tightly cropped;
        pixels above one half are the digit's mask.
    """
    scale = height / 8
    angle, slant = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2)
    rotate = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    slant_and_widen = [[rng.uniform(0.8, 1.2), slant], [0, 1]]
    to_source = np.linalg.inv(scale * np.array(rotate) @ slant_and_widen)
    padded = Image.fromarray(np.pad(digit, 2).astype(np.float32))
    side = int(1.6 * height)
    offset = 6 - to_source @ [side / 2, side / 2]
    affine = np.column_stack([to_source, offset]).ravel().tolist()
    ink = padded.transform(
        (side, side), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    # The ink changes by about 1 / scale a pixel: this ramp is one to two pixels wide.
    coverage = np.clip(0.5 + (np.asarray(ink) - 0.5) * scale, 0, 1)
    rows, columns = np.nonzero(coverage)
    return coverage[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
