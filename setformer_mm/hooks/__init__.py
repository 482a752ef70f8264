"""mmengine hooks: start from K-means references, resume exactly, never lose a file,
stop when the loss is NaN, leave the result.
"""

from .atomic_checkpoint import AtomicCheckpointHook
from .exact_resume import ExactResumeHook
from .kmeans_reference_init import KMeansReferenceInitHook
from .non_finite_loss import NonFiniteLossHook
from .train_result import TrainResultHook

__all__ = [
    "AtomicCheckpointHook",
    "ExactResumeHook",
    "KMeansReferenceInitHook",
    "NonFiniteLossHook",
    "TrainResultHook",
]
