"""What the package can do without."""

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec


@cache
def mmengine_is_usable() -> bool:
    """Whether mmengine is there, with all that it imports itself.

    An mmengine that lacks something, as cv2, is a warning: the operator and timm's face
    of the model do without.
    """
    try:
        if find_spec("mmengine") is None:
            return False
    except ImportError:
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
