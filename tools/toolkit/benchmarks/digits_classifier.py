"""The classifier of digits and its test set, for benchmarks that need answers."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from torch import Tensor, nn

from setformer_mm.utils.checkpoints import load_fitting_weights, read_checkpoint

DIGITS = Path(__file__).resolve().parents[3] / "configs" / "digits"
CONFIG = str(DIGITS / "setformer_digits.py")
CHECKPOINT = str(DIGITS / "checkpoints" / "setformer_digits.pth")


def trained(cfg: Config) -> nn.Module:
    """The classifier of digits, for inference."""
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).eval()
    load_fitting_weights(model, CHECKPOINT, False, read_checkpoint(CHECKPOINT))
    model.backbone.switch_to_deploy()  # compiled, it would fold in each pass
    return model


def load_test_set(cfg: Config, model: nn.Module) -> tuple[Tensor, Tensor]:
    """All pictures as the backbone takes them, and their labels."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    samples = [dataset[i] for i in range(len(dataset))]
    data = {key: [s[key] for s in samples] for key in ("inputs", "data_samples")}
    data = model.data_preprocessor(data, False)
    labels = torch.cat([sample.gt_label for sample in data["data_samples"]])
    return data["inputs"], labels
