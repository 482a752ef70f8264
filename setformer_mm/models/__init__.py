"""The backbone family, its attention, and what that is compared with.

The backbone itself needs mmengine; everything else here does not.
"""

from ..utils.installed import mmengine_is_usable
from .mixers import (
    AgentAttention,
    CosFormerAttention,
    FirstSeTAttention,
    FlowAttention,
    NoMixing,
    NystromAttention,
    PivotAttention,
    RankAugmentedAttention,
    SinkhornAttention,
    SOFTAttention,
    SoftmaxAttention,
    SpatialReductionAttention,
    WindowAttention,
)
from .set_attention import SeTAttention
from .set_encoder import SeTEncoder
from .token_mixer import TOKEN_MIXERS, TokenMixer

__all__ = [
    "TOKEN_MIXERS",
    "AgentAttention",
    "CosFormerAttention",
    "FirstSeTAttention",
    "FlowAttention",
    "NoMixing",
    "NystromAttention",
    "PivotAttention",
    "RankAugmentedAttention",
    "SOFTAttention",
    "SeTAttention",
    "SeTEncoder",
    "SinkhornAttention",
    "SoftmaxAttention",
    "SpatialReductionAttention",
    "TokenMixer",
    "WindowAttention",
]

if mmengine_is_usable():
    from mmengine.registry import MODELS

    from .setformer import SeTformer

    MODELS.register_module(module=SeTEncoder)
    __all__ += ["SeTformer"]
