"""Token mixers to compare SeT attention with, in the same slot of the same block."""

from .agent import AgentAttention
from .cosformer import CosFormerAttention
from .flow import FlowAttention
from .lotformer import PivotAttention
from .no_mixing import NoMixing
from .nystromformer import NystromAttention
from .rala import RankAugmentedAttention
from .set_first_version import FirstSeTAttention
from .sinkformer import SinkhornAttention
from .soft import SOFTAttention
from .softmax import SoftmaxAttention
from .spatial_reduction import SpatialReductionAttention
from .window import WindowAttention

__all__ = [
    "AgentAttention",
    "CosFormerAttention",
    "FirstSeTAttention",
    "FlowAttention",
    "NoMixing",
    "NystromAttention",
    "PivotAttention",
    "RankAugmentedAttention",
    "SOFTAttention",
    "SinkhornAttention",
    "SoftmaxAttention",
    "SpatialReductionAttention",
    "WindowAttention",
]
