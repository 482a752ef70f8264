"""What the package can do without."""

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec


def is_installed(name: str) -> bool:
    """Look for a package without importing it: its own import errors must surface."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


@cache
def mmengine_is_usable() -> bool:
    """Whether mmengine is there, with all that it imports itself.

    An mmengine that lacks something, as cv2, is a warning: the operator and timm's face
    of the model do without.
    """
    if not is_installed("mmengine"):
        return False
    try:
        import_module("mmengine.runner")
    except ImportError as error:
        warnings.warn(
            f"mmengine is installed but cannot be imported ({error}): SeTformer is not "
            "registered with the OpenMMLab libraries",
            stacklevel=2,
        )
        return False
    return True
