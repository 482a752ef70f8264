"""A model with SeTformer inside, and a picture as its backbone takes it."""

from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from setformer_mm.models import SeTAttention, SeTformer
from setformer_mm.utils.errors import UserError

from .launch import build_model
from .pictures import read_picture


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
    for stage in backbone.stages:
        for block in stage.blocks:
            if not isinstance(block.attn, SeTAttention):
                found = type(block.attn).__name__
                raise UserError(
                    f"the attention must be SeTAttention, got {found} in {path}"
                )
    return model, backbone


def preprocess(cfg: Config, model: nn.Module, path: str) -> tuple[Tensor, np.ndarray]:
    """Send a picture through the test pipeline of a config.

    Returns:
        What the backbone takes, ``(1, 3, H, W)``, and the same to look at: RGB of uint8
        ``(H, W, 3)``, padding black.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    steps = [step for step in dataset.pipeline if "Annotations" not in str(step.type)]
    sample = Compose(steps)(dict(img_path=path, img_id=0))
    batch = {key: [value] for key, value in sample.items()}
    inputs = model.data_preprocessor(batch, False)["inputs"]
    picture = sample["inputs"].flip(0)  # the host libraries load BGR
    below, right = (a - b for a, b in zip(inputs.shape[2:], picture.shape[1:]))
    picture = F.pad(picture, (0, right, 0, below))  # as they do
    return inputs, picture.permute(1, 2, 0).numpy()
