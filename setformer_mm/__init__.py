"""SeTformer for the OpenMMLab libraries.

``import setformer_mm`` registers the backbone, the hooks and the optimiser constructor
in mmengine's root registries, from where mmpretrain, mmdetection and mmsegmentation
resolve them, and the compiled operator in its FLOP counter. Without mmengine
:mod:`setformer_mm.ops` is usable (torch alone), and :mod:`setformer_mm.timm`.
"""

from . import configs
from .utils.installed import mmengine_is_usable
from .version import __version__

__all__ = ["__version__", "configs"]

if mmengine_is_usable():
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
    from .utils.bases import find_mmseg_bases

    configs.name_folder_for_bases()
    find_mmseg_bases()

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
