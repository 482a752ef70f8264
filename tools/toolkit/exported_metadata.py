"""What exported models say of normalisation and classes, and that it is so."""

import sys
from dataclasses import replace

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from setformer_mm.export import Metadata, Part
from setformer_mm.utils.data_sources import unwrapped
from setformer_mm.utils.errors import UserError

from .class_names import read_class_names
from .inspected_model import PicturePipeline

COLOUR = (20, 90, 200)  # blue, green, red


def describe(cfg: Config, checkpoint: dict, part: Part) -> Metadata:
    """What goes into the file beside the model."""
    beside = cfg.get("data_preprocessor")
    fields = cfg.model.get("data_preprocessor", beside) or {}
    for step in unwrapped(cfg.test_dataloader.dataset).pipeline:
        if str(step.type).rpartition(".")[2] == "Normalize":
            fields = step
    is_rgb = fields.get("bgr_to_rgb", fields.get("to_rgb", False))
    return Metadata(
        task=part.task,
        outputs=part.outputs,
        mean=tuple(map(float, fields.get("mean") or [0.0] * 3)),
        std=tuple(map(float, fields.get("std") or [1.0] * 3)),
        channel_order="RGB" if is_rgb else "BGR",
        classes=tuple(read_class_names(cfg, checkpoint).get("classes") or ()),
    )


def prepared(cfg: Config, model: nn.Module, picture: np.ndarray) -> Tensor:
    """What a model takes, as its config makes it of a BGR picture: ``(1, 3, H, W)``."""
    sample = PicturePipeline(cfg)(picture)
    if not hasattr(model, "data_preprocessor"):  # as backbones
        return sample["inputs"][None].float()
    batch = {key: [value] for key, value in sample.items()}
    return model.data_preprocessor(batch, False)["inputs"]


def require_true(metadata: Metadata, cfg: Config, model: nn.Module) -> None:
    """Check what metadata say of normalisation on a picture of one colour.

    Raises:
        UserError: if the config makes something else of it.
    """
    picture = np.full((64, 64, 3), COLOUR, np.uint8)
    theirs = prepared(cfg, model, picture)[0, :, 0, 0]
    ours = normalised(picture, metadata)[0, :, 0, 0]
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=1e-3):
        values = [[round(v, 3) for v in x.tolist()] for x in (theirs, ours)]
        raise UserError(
            f"{cfg.filename}: mean, std and order of colours must be those of one "
            "Normalize in the test pipeline or of data_preprocessor; of the BGR colour "
            f"{COLOUR} the config makes {values[0]}, and these make {values[1]}"
        )


def normalised(picture: np.ndarray, metadata: Metadata) -> Tensor:
    """A picture as a model takes it, by what its metadata say.

    Args:
        picture: BGR ``(height, width, 3)``, uint8.
        metadata: of the model.

    Returns:
        ``(1, 3, H, W)``, float32.
    """
    if metadata.channel_order == "RGB":
        picture = picture[..., ::-1]
    values = (picture - np.array(metadata.mean)) / np.array(metadata.std)
    return torch.from_numpy(values).float().permute(2, 0, 1)[None].contiguous()


def with_fitting_classes(metadata: Metadata, logits: Tensor) -> Metadata:
    """Metadata without the names of other classes than those of the logits."""
    count, names = logits.shape[1], len(metadata.classes)
    if metadata.task == "features" or names in (0, count):
        return metadata
    print(
        f"warning: the config names {names} classes, and there are {count} logits: "
        "the file has no names",
        file=sys.stderr,
    )
    return replace(metadata, classes=())
