"""mmengine hooks: start from K-means references, resume exactly, never lose a file,
leave the result.
"""

from .atomic_checkpoint import AtomicCheckpointHook
from .exact_resume import ExactResumeHook
from .kmeans_reference_init import KMeansReferenceInitHook
from .resume_settings import ResumeSettingsHook
from .train_result import TrainResultHook

__all__ = [
    "AtomicCheckpointHook",
    "ExactResumeHook",
    "KMeansReferenceInitHook",
    "ResumeSettingsHook",
    "TrainResultHook",
]
