"""Weights of the OpenMMLab libraries for timm's face of the model, and back.

The names differ in two prefixes: a backbone stands under ``backbone.`` there, and has a
norm ``norm{i}`` for each output stage where the face has one ``norm`` after the last
stage. The classifier is ``head.fc`` on both sides.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

_BACKBONE = "backbone."
_CLASSIFIER = "head.fc."


def from_mm(state_dict: Mapping, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Translate the names of weights to those of :class:`SeTformerClassifier`.

    Args:
        state_dict (Mapping): Of a classifier, detector or segmentor, or of a backbone
            alone, by itself or as a checkpoint with the key ``state_dict``. Names of
            the face itself stay.
        model (nn.Module, optional): timm passes it; it is not needed.

    Returns:
        dict[str, Tensor]: Weights of backbone and classifier, without necks, heads of
        other tasks, and norms of earlier stages.
    """
    state_dict = state_dict.get("state_dict", state_dict)
    if any(name.startswith(_BACKBONE) for name in state_dict):
        state_dict = {
            name.removeprefix(_BACKBONE): value
            for name, value in state_dict.items()
            if name.startswith((_BACKBONE, _CLASSIFIER))
        }
    last_norm = f"norm{_last_stage(state_dict)}."
    renamed = {
        "norm." + name.removeprefix(last_norm)
        if name.startswith(last_norm)
        else name: value
        for name, value in state_dict.items()
    }
    return {n: value for n, value in renamed.items() if not re.match(r"norm\d+\.", n)}


def to_mm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names of a :class:`SeTformerClassifier` to those of mmpretrain.

    Args:
        state_dict (Mapping[str, Tensor]): Its ``state_dict()``.

    Returns:
        dict[str, Tensor]: That of an ``ImageClassifier`` whose backbone has
        ``out_indices=-1``; detectors and segmentors take it as they take any
        classifier's, with ``init_cfg`` and ``prefix="backbone."``.
    """
    last_norm = f"norm{_last_stage(state_dict)}."

    def translated(name: str) -> str:
        if name.startswith(_CLASSIFIER):
            return name
        if name.startswith("norm."):
            name = last_norm + name.removeprefix("norm.")
        return _BACKBONE + name

    return {translated(name): value for name, value in state_dict.items()}


def _last_stage(state_dict: Mapping) -> int:
    stages = [int(n.split(".")[1]) for n in state_dict if n.startswith("stages.")]
    return max(stages, default=0)
