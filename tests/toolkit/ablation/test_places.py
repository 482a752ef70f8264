"""Where configs stand in an ablation, and how they want to be trained for it."""

import pytest
from mmengine.config import Config

from setformer_mm.utils.errors import UserError
from toolkit.ablation.places import Place, place_in_ablation, require_own_rows, wish_of


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (dict(group="a", name=1.0), ({"a": "1.0"}, [])),
        (dict(group="a", name="x", baselines=dict(a="y", b="z")), ({"a": "x"}, [])),
        (
            dict(group="a", name=3, baselines=dict(a=3, b="z")),
            ({"a": "3", "b": "z"}, ["a", "b"]),
        ),
    ],
)
def test_place_in_ablation(field, expected):
    assert place_in_ablation(Config(dict(ablation=field))) == expected


def test_place_of_a_config_that_says_nothing(tmp_path):
    (tmp_path / "job.py").write_text("a = 1")
    cfg = Config.fromfile(tmp_path / "job.py")
    assert place_in_ablation(cfg) == ({"config": "job"}, [])


@pytest.mark.parametrize(
    "field", [dict(name="a"), dict(group="a", nam="b"), dict(group="a", name="b", c=1)]
)
def test_wrong_keys(field):
    with pytest.raises(UserError, match="has the keys group, name and perhaps"):
        place_in_ablation(Config(dict(ablation=field)))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("SeT", "`ablation` of a config must be a dict, got 'SeT'"),
        (dict(group=["a"], name="b"), r"`group` .* must be a str, got \['a'\]"),
        (dict(group="a", name="b", baselines=None), "`baselines` .* dict, got None"),
    ],
)
def test_wrong_forms(field, message):
    cfg = Config(dict(ablation=field))
    for read in (place_in_ablation, wish_of):
        with pytest.raises(UserError, match=message):
            read(cfg)


def test_a_config_may_drop_what_it_inherits(tmp_path):
    (tmp_path / "job.py").write_text("ablation = None")
    cfg = Config.fromfile(tmp_path / "job.py")
    assert place_in_ablation(cfg).rows == {"config": "job"}
    assert wish_of(cfg).seeds == (0,)


def test_each_row_has_one_config_and_each_group_one_baseline():
    first = ("a.py", Place({"g": "a", "h": "a"}, ["g", "h"]))
    require_own_rows([first, first, ("b.py", Place({"g": "b"}, []))])
    with pytest.raises(UserError, match="a.py and b.py both stand as 'a' in 'h'; give"):
        require_own_rows([first, ("b.py", Place({"h": "a"}, []))])
    with pytest.raises(UserError, match="a.py and b.py are both baselines of 'g'"):
        require_own_rows([first, ("b.py", Place({"g": "b"}, ["g"]))])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ((0,), ())),
        (dict(seeds=3), ((0, 1, 2), ())),
        (dict(learning_rates=[1e-3, 2e-3]), ((0,), (1e-3, 2e-3))),
    ],
)
def test_wishes(said, expected):
    cfg = Config(dict(ablation=dict(group="a", name="b", **said)))
    wish = wish_of(cfg)
    assert (wish.seeds, wish.learning_rates) == expected
    assert place_in_ablation(cfg) == ({"a": "b"}, [])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (dict(seeds=0), "`seeds` .* positive number of seeds, got 0"),
        (dict(seeds=[1, 2]), r"positive number of seeds, got \[1, 2\]"),
        (dict(learning_rates=1e-3), "different positive numbers, got 0.001"),
        (dict(learning_rates=[1e-3, 1e-3]), "different positive numbers"),
        (dict(learning_rates=[0.0, 1e-3]), "different positive numbers"),
        (dict(learning_rates=[[1e-3]]), "different positive numbers"),
        (dict(seeds=True), "positive number of seeds, got True"),
    ],
)
def test_wrong_wishes(said, message):
    with pytest.raises(UserError, match=message):
        wish_of(Config(dict(ablation=dict(group="a", name="b", **said))))
