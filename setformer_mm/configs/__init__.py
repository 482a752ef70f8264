"""The configs that come with the package, by name.

A wheel has them in its own folder, where mim looks for them; a checkout beside the
package. ``python -m setformer_mm.configs`` says where.
"""

import os
from pathlib import Path

from ..utils.errors import UserError
from ..utils.spelling import did_you_mean

# For `_base_ = "{{$SETFORMER_MM_CONFIGS:}}/mask_rcnn_setformer_t.py"`, which mmengine
# understands; `import setformer_mm` sets it.
FOLDER_VARIABLE = "SETFORMER_MM_CONFIGS"

_PACKAGE = Path(__file__).resolve().parents[1]


def root() -> Path:
    """The folder that holds ``configs`` and ``model-index.yml``."""
    mim = _PACKAGE / ".mim"
    return mim if mim.is_dir() else _PACKAGE.parent


def folder() -> Path:
    """The folder of all configs.

    Raises:
        UserError: If the package came without them.
    """
    configs = root() / "configs"
    if not configs.is_dir():
        raise UserError(
            f"the configs of setformer_mm should lie in {configs}, and do not; install "
            "the package anew, from its wheel or with 'pip install .' in its sources"
        )
    return configs


def names() -> list[str]:
    """Names of all configs, as ``mask_rcnn_setformer_t``, without the bases."""
    return sorted(_paths())


def path(name: str) -> str:
    """Find a config.

    Args:
        name: as in :func:`names`, with or without ``.py``.

    Raises:
        UserError: If there is none of that name.
    """
    found = _paths()
    name = name.removesuffix(".py")
    if name not in found:
        raise UserError(
            f"there is no config {name!r} in setformer_mm{did_you_mean(name, found)}; "
            "'python -m setformer_mm.configs' lists them"
        )
    return str(found[name])


def name_folder_for_bases() -> None:
    """Set the variable that configs elsewhere use in ``_base_``."""
    if (root() / "configs").is_dir():
        os.environ[FOLDER_VARIABLE] = str(folder())


def _paths() -> dict[str, Path]:
    configs = folder()
    return {
        each.stem: each
        for each in configs.rglob("*.py")
        if "_base_" not in each.relative_to(configs).parts
    }
