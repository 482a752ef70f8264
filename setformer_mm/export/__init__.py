"""Models as files for other engines: ONNX, OpenVINO, AOTInductor, torch.export.

``tools/export.py`` is made of this. It needs torch, and what a format needs itself.
"""

from .checking import Difference, NotAlikeError, compare, require_alike
from .formats import FORMATS, Format
from .metadata import Metadata
from .parts import Part, deployed_part

__all__ = [
    "FORMATS",
    "Difference",
    "Format",
    "Metadata",
    "NotAlikeError",
    "Part",
    "compare",
    "deployed_part",
    "require_alike",
]
