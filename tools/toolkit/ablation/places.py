"""Where a config stands in an ablation, and how it wants to be trained for it.

A config says so apart from what it computes::

    ablation = dict(group="epsilon", name=0.05)

and which row of a group the others are compared with; configs inherit it::

    ablation = dict(
        group="token mixer",
        name="SeT",
        baselines={"token mixer": "SeT", "epsilon": 0.1},
    )

The config that carries the name of its group's baseline, as this one does, stands for
the baseline in all the groups. It may also say how it wants to be trained: ``seeds=5``,
with seeds 0 to 4, and ``learning_rates=(5e-4, 1e-3, 2e-3)``, all tried with the first
seed, of which the best one is trained with the others and stands in the tables.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from setformer_mm.utils.errors import UserError

OPTIONAL_KEYS = ("baselines", "seeds", "learning_rates")
UNPLACED = "config"  # the group of configs that do not say where they stand


class Place(NamedTuple):
    """Where a config stands.

    Attributes:
        rows: its name by group.
        baseline_of: the groups whose other rows are compared with this config.
    """

    rows: dict[str, str]
    baseline_of: list[str]


@dataclass(frozen=True)
class Wish:
    """How a config wants to be trained.

    Attributes:
        seeds: one or more.
        learning_rates: to try with the first seed; none: the config's own.
    """

    seeds: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = ()


def place_in_ablation(cfg: Config) -> Place:
    """Read where a config stands from its field ``ablation``.

    Returns:
        That of a config without the field is in the group :data:`UNPLACED`, under the
        name of its file.

    Raises:
        UserError: if the field lacks group or name, or has something of a wrong form.
    """
    said = _field(cfg)
    if said is None:
        return Place({UNPLACED: Path(cfg.filename).stem}, [])
    group, name = said["group"], str(said["name"])
    baselines = {g: str(n) for g, n in said.get("baselines", {}).items()}
    if baselines.get(group) == name:
        return Place(baselines, list(baselines))
    return Place({group: name}, [])


def wish_of(cfg: Config) -> Wish:
    """Read ``seeds`` and ``learning_rates`` of a config's field ``ablation``.

    Raises:
        UserError: if they are no positive numbers.
    """
    said = _field(cfg) or {}
    seeds, rates = said.get("seeds", 1), said.get("learning_rates", ())
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UserError(
            "`seeds` of a config's `ablation` is a positive number of seeds, "
            f"got {seeds!r} in {cfg.filename}"
        )
    valid = isinstance(rates, list | tuple)
    valid = valid and all(isinstance(r, int | float) and r > 0 for r in rates)
    if not valid or len(set(rates)) < len(rates):
        raise UserError(
            "`learning_rates` of a config's `ablation` are different positive numbers, "
            f"got {rates!r} in {cfg.filename}"
        )
    return Wish(tuple(range(seeds)), tuple(map(float, rates)))


def _field(cfg: Config) -> dict | None:
    said = cfg.get("ablation")
    if said is None:
        return None
    if not isinstance(said, dict):
        raise UserError(
            f"`ablation` of a config must be a dict, got {said!r} in {cfg.filename}"
        )
    if not {"group", "name"} <= said.keys() <= {"group", "name", *OPTIONAL_KEYS}:
        raise UserError(
            "`ablation` of a config has the keys group, name and perhaps "
            f"{', '.join(OPTIONAL_KEYS)}, got {sorted(said)} in {cfg.filename}"
        )
    for key, form in dict(group=str, baselines=dict).items():
        if not isinstance(said.get(key, form()), form):
            raise UserError(
                f"`{key}` of a config's `ablation` must be a {form.__name__}, "
                f"got {said[key]!r} in {cfg.filename}"
            )
    return said


def require_own_rows(places: Iterable[tuple[str, Place]]) -> None:
    """Check that each row has one config, and each group one baseline.

    Args:
        places: paths of configs, and where they stand; a config may come repeatedly.

    Raises:
        UserError: naming the first two configs that cannot stand beside each other.
    """
    rows: dict[tuple[str, str], str] = {}
    baselines: dict[str, str] = {}
    for config, place in places:
        for group, name in place.rows.items():
            other = rows.setdefault((group, name), config)
            if other != config:
                raise UserError(
                    f"{other} and {config} both stand as {name!r} in {group!r}; give "
                    "one of them another name in its field `ablation`"
                )
        for group in place.baseline_of:
            other = baselines.setdefault(group, config)
            if other != config:
                raise UserError(
                    f"{other} and {config} are both baselines of {group!r}; leave one "
                    "to `baselines` in their fields `ablation`"
                )
