"""Token mixers to compare SeT attention with, in the same slot of the same block."""

from .agent import AgentAttention
from .cosformer import CosFormerAttention
from .flow import FlowAttention
from .no_mixing import NoMixing
from .soft import SOFTAttention
from .softmax import SoftmaxAttention

__all__ = [
    "AgentAttention",
    "CosFormerAttention",
    "FlowAttention",
    "NoMixing",
    "SOFTAttention",
    "SoftmaxAttention",
]
