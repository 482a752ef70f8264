"""Relational scenes: what they show, and that only the relation tells the label."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from setformer_mm.data import relations
from setformer_mm.data.digits import load_sources
from setformer_mm.data.relations import (
    HEIGHT,
    NAMED,
    OTHER,
    WIDTH,
    Layout,
    draw_scene,
    framed,
    random_ink,
    random_layout,
    relational_scenes,
)


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    return [
        random_layout(i % 4, 0, np.random.default_rng([5, i])) for i in range(6_000)
    ]


@pytest.fixture(scope="module")
def scenes() -> list:
    return list(relational_scenes("val", 60, 0))


def test_the_key_names_one_of_two(layouts):
    for layout in layouts:
        assert layout.named.ink == layout.key.ink != layout.other.ink
        assert layout.named.label != layout.other.label
        assert {layout.named.place, layout.other.place} == {0, 1}
        assert layout.label == layout.named.label


def one_hot(values: list[int], count: int) -> np.ndarray:
    return np.eye(count)[values]


def accuracy(features: np.ndarray, layouts: list[Layout]) -> float:
    """Of a linear classifier, on the last third."""
    labels = np.array([layout.label for layout in layouts])
    split = len(labels) * 2 // 3
    model = LogisticRegression(max_iter=100).fit(features[:split], labels[:split])
    return model.score(features[split:], labels[split:])


def marginals(layouts: list[Layout]) -> dict[str, np.ndarray]:
    """What a scene shows without a relation: digits by place, not by their role."""
    at = [sorted((x.named, x.other), key=lambda digit: digit.place) for x in layouts]
    classes = [one_hot([d.label for d in digits], 4) for digits in zip(*at)]
    inks = [one_hot([d.ink for d in digits], 3) for digits in zip(*at)]
    key = np.hstack(
        [
            one_hot([x.key_side for x in layouts], 2),
            one_hot([x.key.label for x in layouts], 4),
            one_hot([x.key.ink for x in layouts], 3),
        ]
    )
    pairs = [
        (c[:, :, None] * i[:, None]).reshape(len(layouts), -1)
        for c, i in zip(classes, inks)
    ]
    return dict(classes=np.hstack(classes), inks=np.hstack(inks), key=key, pairs=pairs)


def test_position_key_and_inks_say_nothing_of_the_label(layouts):
    found = marginals(layouts)
    features = np.hstack([found["inks"], found["key"]])
    assert accuracy(features, layouts) == pytest.approx(0.25, abs=0.03)


def test_all_single_facts_leave_two_cases(layouts):
    """Who knows both digits is right in one of two cases, and no other fact helps."""
    found = marginals(layouts)
    features = np.hstack([found["classes"], found["inks"], found["key"]])
    assert accuracy(features, layouts) == pytest.approx(0.5, abs=0.03)


def test_digits_with_their_inks_beside_the_key_are_not_enough(layouts):
    """All that can be added up over digits seen one by one."""
    found = marginals(layouts)
    features = np.hstack([*found["pairs"], found["inks"], found["key"]])
    assert accuracy(features, layouts) < 0.57


def test_the_relation_is_enough(layouts):
    """Digits that have the key's ink, by class."""
    found = marginals(layouts)
    by_ink = sum(found["pairs"]).reshape(len(layouts), 4, 3)
    features = (by_ink * found["key"][:, None, -3:]).sum(-1)
    assert accuracy(features, layouts) == 1


def test_everything_is_balanced(layouts):
    for values, count in (
        ([x.key_side for x in layouts], 2),
        ([x.named.place for x in layouts], 2),
        ([x.key.ink for x in layouts], 3),
        ([x.key.label for x in layouts], 4),
        ([x.other.label for x in layouts], 4),
    ):
        shares = np.bincount(values, minlength=count) / len(layouts)
        assert shares == pytest.approx(np.full(count, 1 / count), rel=0.15)


def test_in_half_of_the_training_the_named_digit_is_alone(scenes):
    drawn = list(relational_scenes("train", 200, 0))
    alone = [scene for scene in drawn if scene.layout.other is None]
    assert 0.35 < len(alone) / len(drawn) < 0.65
    assert {scene.layout.label for scene in alone} == set(range(4))
    for scene in drawn:
        has_other = (scene.label_map == OTHER).any()
        assert has_other == (scene.layout.other is not None)
    assert all(scene.layout.other for scene in scenes)


def test_label_maps_and_halves(scenes):
    for scene in scenes:
        assert scene.image.shape == (HEIGHT, WIDTH, 3)
        assert scene.image.min() >= 0 and scene.image.max() <= 255
        digits = scene.label_map.nonzero()[1]
        on_right = digits >= WIDTH // 2
        assert on_right.all() if scene.layout.key_side == 0 else not on_right.any()
        assert np.abs(digits - (WIDTH - 1) / 2).min() >= relations.GAP
        for value in (NAMED, OTHER):
            assert (scene.label_map == value).sum() >= 20


def test_inks_are_what_the_layout_says(scenes):
    """The channel of the key's ink is the strongest one in the named digit."""
    for scene in scenes:
        for digit, value in ((scene.layout.named, NAMED), (scene.layout.other, OTHER)):
            mean = scene.image[scene.label_map == value].mean(0)
            assert mean.argmax() == digit.ink


def test_inks_are_told_apart():
    rng = np.random.default_rng(0)
    colours = [random_ink(index, rng) for index in range(3) for _ in range(200)]
    assert np.argmax(colours, 1).tolist() == np.repeat(range(3), 200).tolist()


def test_a_frame_around_its_digit():
    frame = framed(np.full((10, 8), 0.5))
    assert frame[:3].min() == frame[:, -3:].min() == 1
    assert (frame == 0.5).sum() == 80 and frame[10:20, 11:19].min() == 0.5


def test_more_scenes_begin_like_fewer_and_splits_differ(scenes):
    again = list(relational_scenes("val", 3, 0))
    for scene, other in zip(scenes, again):
        assert np.array_equal(scene.image, other.image)
        assert scene.layout == other.layout
    train = next(relational_scenes("train", 1, 0))
    assert not np.array_equal(train.image, scenes[0].image)


def test_a_layout_can_be_drawn_twice_differently():
    layout = random_layout(3, 0, np.random.default_rng(0))
    sources = load_sources("train")
    drawn = [draw_scene(layout, sources, np.random.default_rng(s)) for s in range(2)]
    assert not np.array_equal(drawn[0].image, drawn[1].image)
    assert drawn[0].layout == drawn[1].layout == layout
