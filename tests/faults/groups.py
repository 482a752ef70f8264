"""All groups of cases, and how many of each there are."""

import importlib

from . import (
    concurrent_writers,
    damaged_checkpoints,
    damaged_configs,
    damaged_data,
    killed_trainings,
    malicious_checkpoints,
)
from .campaign import Group

GROUPS: dict[str, Group] = {
    "malicious checkpoint": malicious_checkpoints.draw,
    "damaged checkpoint": damaged_checkpoints.draw,
    "damaged data": damaged_data.draw,
    "damaged config": damaged_configs.draw,
    "killed training": killed_trainings.draw,
    "concurrent writers": concurrent_writers.draw,
}
# Of a hundred cases: more of what is quick, or has more kinds.
SHARES = dict(zip(GROUPS, (40, 25, 12, 12, 7, 4)))


def cases_of(groups: list[str], number: int) -> dict[str, int]:
    """Share ``number`` cases among groups, at least one each."""
    total = sum(SHARES[name] for name in groups)
    return {name: max(1, round(number * SHARES[name] / total)) for name in groups}


def import_host_libraries() -> None:
    """Once, for all processes that are forked later."""
    for library in ("mmdet", "mmseg", "mmpretrain"):
        utils = importlib.import_module(f"{library}.utils")
        utils.register_all_modules(init_default_scope=False)
