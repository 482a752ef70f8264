"""Scenes that say nothing until two far parts of them are related.

One half of a scene has two digits, the other half the key, a digit in a frame. The
key's ink names one of the two, the one that has the same ink: its class is the label of
the scene, and its pixels are what is to be segmented.

Nothing but this relation tells the two apart: sides, inks, classes and sizes are drawn
without regard to which is named. Who sees both digits, but not which one has the key's
ink, is right in one of two cases.

In half of the scenes to train on, the named digit is alone: they teach what digits look
like, without which nothing can be learned of the relation for a long time. Scenes to
validate on all have both.
"""

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .digits import SPLITS, Rng, Sources, load_sources, random_background, random_stroke

HEIGHT, WIDTH = 32, 112  # pixels
# Nothing is drawn this close to the middle, so that windows that end there see one half
# and convolutions hardly more; and to the border.
GAP, BORDER = 5, 1
ROOM = WIDTH // 2 - GAP - BORDER, HEIGHT - 2 * BORDER  # of a half: width, height
HEIGHTS = (22, 29)
FRAME, LINE, KEY_HEIGHTS = 30, 3, (14, 20)
GROUND = 0.12  # of the photographs' brightness: texture makes learning begin late
HUES = (0.0, 0.33, 0.6)  # red, green, blue
NUM_CLASSES = 4  # digits 0 to 3; with ten, learning begins three times as late
ALONE_SHARE = 0.5  # of the training scenes
BACKGROUND, OTHER, NAMED = range(3)  # values of a label map; the key is background


@dataclass(frozen=True)
class Digit:
    """One digit of a scene.

    Attributes:
        label: class, 0 to 3.
        ink: index into :data:`HUES`.
        place: of the two in its half, 0 or 1; the key has all of the half, and 0.
    """

    label: int
    ink: int
    place: int


@dataclass(frozen=True)
class Layout:
    """What a scene says, without its pixels.

    Attributes:
        key_side: the half with the key, 0 or 1.
        key: the framed digit; its own class means nothing.
        named: the digit that has its ink.
        other: the one that has not, of another class; None if the named one is alone.
    """

    key_side: int
    key: Digit
    named: Digit
    other: Digit | None

    @property
    def label(self) -> int:
        return self.named.label


@dataclass(frozen=True)
class RelationalScene:
    """A scene with both of its targets.

    Attributes:
        layout: what it says.
        image: (32, 112, 3) float32 in 0..255.
        label_map: (32, 112) uint8: :data:`BACKGROUND`, :data:`OTHER` or :data:`NAMED`.
    """

    layout: Layout
    image: np.ndarray
    label_map: np.ndarray


def random_layout(label: int, alone_share: float, rng: Rng) -> Layout:
    """Draw a layout whose named digit is of class ``label``.

    Args:
        label: 0 to 3.
        alone_share: how often the named digit is alone.
        rng: a generator.
    """
    key_side, place, key_label = (int(rng.integers(n)) for n in (2, 2, NUM_CLASSES))
    ink, other_ink, _ = rng.permutation(len(HUES)).tolist()
    other_label = int(rng.integers(NUM_CLASSES - 1))
    other_label += other_label >= label
    is_alone = rng.random() < alone_share
    return Layout(
        key_side,
        key=Digit(key_label, ink, 0),
        named=Digit(label, ink, place),
        other=None if is_alone else Digit(other_label, other_ink, 1 - place),
    )


def random_ink(index: int, rng: Rng) -> np.ndarray:
    """Draw a colour of one of the inks, (3,) in 0..255."""
    hue = (HUES[index] + rng.uniform(-0.03, 0.03)) % 1
    colour = colorsys.hsv_to_rgb(hue, rng.uniform(0.65, 0.9), rng.uniform(0.9, 1))
    return 255 * np.array(colour)


def draw_scene(layout: Layout, sources: Sources, rng: Rng) -> RelationalScene:
    """Draw a layout's digits on a photograph."""
    photo = random_background(sources.photos, WIDTH, rng)
    top = int(rng.integers(WIDTH - HEIGHT + 1))
    image = GROUND * photo[top : top + HEIGHT]
    label_map = np.full((HEIGHT, WIDTH), BACKGROUND, np.uint8)

    def draw(stroke: np.ndarray, digit: Digit, left: int, room: int, value: int):
        height, width = stroke.shape
        top = BORDER + int(rng.integers(ROOM[1] - height + 1))
        left += int(rng.integers(room - width + 1))
        window = np.s_[top : top + height, left : left + width]
        opacity = rng.uniform(0.8, 1) * stroke[..., None]
        image[window] += opacity * (random_ink(digit.ink, rng) - image[window])
        label_map[window][stroke > 0.5] = value

    # Where the halves begin to be drawn on.
    lefts = BORDER, WIDTH // 2 + GAP
    inside = FRAME - 2 * LINE
    stroke = fitting_stroke(sources, layout.key, KEY_HEIGHTS, (inside, inside), rng)
    draw(framed(stroke), layout.key, lefts[layout.key_side], ROOM[0], BACKGROUND)
    room = ROOM[0] // 2
    for digit, value in ((layout.named, NAMED), (layout.other, OTHER)):
        if digit is None:
            continue
        stroke = fitting_stroke(sources, digit, HEIGHTS, (room, ROOM[1]), rng)
        left = lefts[1 - layout.key_side] + room * digit.place
        draw(stroke, digit, left, room, value)
    return RelationalScene(layout, image, label_map)


def fitting_stroke(
    sources: Sources,
    digit: Digit,
    heights: tuple[int, int],
    room: tuple[int, int],
    rng: Rng,
) -> np.ndarray:
    """Draw strokes of a digit until one fits into a room of some width and height."""
    while True:
        image = rng.choice(sources.digits[digit.label])
        stroke = random_stroke(image, np.exp(rng.uniform(*np.log(heights))), rng)
        if stroke.shape[0] <= room[1] and stroke.shape[1] <= room[0]:
            return stroke


def framed(stroke: np.ndarray) -> np.ndarray:
    """Put a stroke into the middle of a square frame."""
    frame = np.ones((FRAME, FRAME), stroke.dtype)
    inner = frame[LINE:-LINE, LINE:-LINE]
    inner[:] = 0
    top, left = ((a - b) // 2 for a, b in zip(inner.shape, stroke.shape))
    inner[top : top + stroke.shape[0], left : left + stroke.shape[1]] = stroke
    return frame


def relational_scenes(split: str, count: int, seed: int) -> Iterator[RelationalScene]:
    """Draw the scenes of a split, the classes in turn.

    Args:
        split: "train" or "val", which share no digit and no part of a photograph.
        count: number of scenes.
        seed: with the same one, more scenes begin like fewer.
    """
    sources = load_sources(split)
    alone_share = ALONE_SHARE if split == "train" else 0.0
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), 2, index])
        yield draw_scene(
            random_layout(index % NUM_CLASSES, alone_share, rng), sources, rng
        )
