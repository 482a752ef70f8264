"""SeTformer for the OpenMMLab libraries.

``import setformer_mm`` registers the backbone, the hooks and the optimiser constructor
in mmengine's root registries, from where mmpretrain, mmdetection and mmsegmentation
resolve them, and the compiled operator in its FLOP counter. Without mmengine only
:mod:`setformer_mm.ops` (torch alone) is usable.
"""

from importlib.util import find_spec

from .version import __version__

__all__ = ["__version__"]


def _mmengine_is_installed() -> bool:
    """Look for mmengine without importing it: its own import errors must surface."""
    try:
        return find_spec("mmengine") is not None
    except ImportError:
        return False


if _mmengine_is_installed():
    # mmengine resolves `type="setformer_mm.SeTformer"` from any library's scope only
    # if the class is found at the top level of the package.
    from .hooks import (
        AtomicCheckpointHook,
        ExactResumeHook,
        KMeansReferenceInitHook,
        TrainResultHook,
    )
    from .models import SeTAttention, SeTEncoder, SeTformer
    from .optim import SeTformerLayerDecayConstructor
    from .utils import complexity  # noqa: F401  tells mmengine's counter the operator

    __all__ += [
        "AtomicCheckpointHook",
        "ExactResumeHook",
        "KMeansReferenceInitHook",
        "SeTAttention",
        "SeTEncoder",
        "SeTformer",
        "SeTformerLayerDecayConstructor",
        "TrainResultHook",
    ]
