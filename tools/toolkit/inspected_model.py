"""A model with SeTformer inside, and a picture as its backbone takes it."""

from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn import functional as F

from setformer_mm.models import SeTformer
from setformer_mm.utils.data_sources import unwrapped
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.transport import has_transport

from .launch import build_model
from .pictures import read_picture

# Stage, and block in it, both from 0.
Block = tuple[int, int]


def require_picture(path: str) -> None:
    """Check that a file is a picture.

    Raises:
        UserError: if it is none, or not there.
    """
    if not Path(path).is_file():
        raise UserError(f"the picture {path} does not exist")
    read_picture(path)


def build_with_backbone(cfg: Config, path: str) -> tuple[nn.Module, SeTformer]:
    """Build the model of a config and find its backbone.

    Args:
        cfg: the config.
        path: its file.

    Raises:
        UserError: if that is no SeTformer, or one with another attention.
    """
    for field in ("model", "test_dataloader"):
        if field not in cfg:
            raise UserError(f"the config {path} has no field {field}")
    model = build_model(cfg)
    backbone = next((m for m in model.modules() if isinstance(m, SeTformer)), None)
    if backbone is None:
        found = type(getattr(model, "backbone", model)).__name__
        raise UserError(f"the backbone must be SeTformer, got {found} in {path}")
    for attention in attentions_of(backbone).values():
        if not has_transport(attention):
            found = type(attention).__name__
            raise UserError(
                f"the attention must be SeTAttention, got {found} in {path}"
            )
    return model, backbone


def attentions_of(backbone: SeTformer) -> dict[Block, nn.Module]:
    """What stands in the attention slots of the blocks, from the first to the last."""
    return {
        (i, j): block.attn
        for i, stage in enumerate(backbone.stages)
        for j, block in enumerate(stage.blocks)
    }


class PicturePipeline:
    """The test pipeline of a config, for pictures that are read and have no annotation.

    Args:
        cfg: with a ``test_dataloader``.
    """

    def __init__(self, cfg: Config) -> None:
        self._scope = cfg.get("default_scope", "mmengine")
        left_out = "LoadImage", "Annotations"
        steps = [
            step
            for step in unwrapped(cfg.test_dataloader.dataset).pipeline
            if not any(part in str(step.type) for part in left_out)
        ]
        with DefaultScope.overwrite_default_scope(self._scope):
            self._steps = Compose(steps)

    def __call__(self, picture: np.ndarray) -> dict:
        """Prepare a picture.

        Args:
            picture: BGR ``(height, width, 3)``, uint8.

        Returns:
            ``inputs`` and ``data_samples``, as the host libraries collect them.
        """
        size = picture.shape[:2]
        results = dict(img=picture, img_shape=size, ori_shape=size, img_id=0)
        with DefaultScope.overwrite_default_scope(self._scope):
            return self._steps(results)


def seen_picture(inputs: Tensor) -> Tensor:
    """What a pipeline has made of a picture, to look at.

    Args:
        inputs: of a sample, ``(3, H, W)`` or ``(1, H, W)``.

    Returns:
        RGB ``(3, H, W)``, uint8.
    """
    return inputs.flip(0).expand(3, -1, -1).byte()  # the host libraries load BGR


def preprocess(cfg: Config, model: nn.Module, path: str) -> tuple[Tensor, np.ndarray]:
    """Send a picture through the test pipeline of a config.

    Returns:
        What the backbone takes, ``(1, 3, H, W)``, and the same to look at: RGB of uint8
        ``(H, W, 3)``, padding black.
    """
    sample = PicturePipeline(cfg)(read_picture(path))
    batch = {key: [value] for key, value in sample.items()}
    inputs = model.data_preprocessor(batch, False)["inputs"]
    picture = seen_picture(sample["inputs"])
    below, right = (a - b for a, b in zip(inputs.shape[2:], picture.shape[1:]))
    picture = F.pad(picture, (0, right, 0, below))  # as they do
    return inputs, picture.permute(1, 2, 0).numpy()
