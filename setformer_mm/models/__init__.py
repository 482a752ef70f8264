"""The backbone family, its attention, and what that is compared with."""

from .mixers import (
    AgentAttention,
    CosFormerAttention,
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
from .setformer import SeTformer
from .token_mixer import TOKEN_MIXERS, TokenMixer

__all__ = [
    "TOKEN_MIXERS",
    "AgentAttention",
    "CosFormerAttention",
    "FlowAttention",
    "NoMixing",
    "NystromAttention",
    "PivotAttention",
    "RankAugmentedAttention",
    "SOFTAttention",
    "SeTAttention",
    "SeTEncoder",
    "SeTformer",
    "SinkhornAttention",
    "SoftmaxAttention",
    "SpatialReductionAttention",
    "TokenMixer",
    "WindowAttention",
]
