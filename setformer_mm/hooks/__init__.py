"""mmengine hooks: look at the data, start from K-means references, resume exactly,
never lose a file, stop when the loss is NaN, leave the result.
"""

from .atomic_checkpoint import AtomicCheckpointHook
from .data_check import DataCheckHook
from .exact_resume import ExactResumeHook
from .kmeans_reference_init import KMeansReferenceInitHook
from .non_finite_loss import NonFiniteLossHook
from .resume_settings import ResumeSettingsHook
from .train_result import TrainResultHook

__all__ = [
    "AtomicCheckpointHook",
    "DataCheckHook",
    "ExactResumeHook",
    "KMeansReferenceInitHook",
    "NonFiniteLossHook",
    "ResumeSettingsHook",
    "TrainResultHook",
]
