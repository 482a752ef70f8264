"""A job that trains in a second and uses all three random number generators."""

import random

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn


@DATASETS.register_module()
class ToyDataset(BaseDataset):
    """Points of two classes, moved by a random augmentation when ``noisy``."""

    METAINFO = dict(classes=("left", "right"))

    def __init__(self, length: int = 12, noisy: bool = False, **kwargs) -> None:
        self.length = length
        self.noisy = noisy
        super().__init__(serialize_data=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(self.length, 4, generator=generator)
        return [dict(inputs=point, labels=int(point[0] > 0)) for point in points]

    def prepare_data(self, idx: int) -> dict:
        sample = self.data_list[idx]
        point = sample["inputs"]
        if self.noisy:
            noise = random.random() + np.random.rand() + torch.rand(4)
            point = point + 0.1 * noise
        return dict(inputs=point, labels=sample["labels"])


@MODELS.register_module()
class ToyModel(BaseModel):
    """Two linear layers with dropout between them."""

    def __init__(self, width: int = 8, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.hidden = nn.Linear(4, width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, 2)

    def forward(self, inputs, labels, mode="tensor"):
        inputs = torch.stack(inputs)
        logits = self.head(self.dropout(self.hidden(inputs).relu()))
        if mode == "loss":
            labels = torch.as_tensor(labels, device=logits.device)
            return dict(loss=nn.functional.cross_entropy(logits, labels))
        return [dict(right=p == y) for p, y in zip(logits.argmax(1), labels)]


@METRICS.register_module()
class ToyAccuracy(BaseMetric):
    """Fraction of right answers; draws numbers, as shuffling metrics do."""

    def process(self, data_batch, data_samples) -> None:
        torch.rand(1), np.random.rand(), random.random()
        self.results += [bool(sample["right"]) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return dict(accuracy=np.mean(results))
