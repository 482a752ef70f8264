"""The family in timm's registry, and on the Hugging Face Hub.

``import setformer_mm.timm`` registers ``setformer_mini``, ``setformer_tiny``,
``setformer_small``, ``setformer_base`` and ``setformer_digits`` for
``timm.create_model``. It needs timm and torch, and no library of OpenMMLab.
"""

from .setformer import SeTformerClassifier
from .state_dict import from_mm, to_mm

__all__ = ["SeTformerClassifier", "from_mm", "to_mm"]
