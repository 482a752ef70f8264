"""A model that takes what any of the three host libraries packs, as it comes."""

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn


@MODELS.register_module()
class PictureModel(BaseModel):
    """One weight, whose course depends on all pixels and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs, data_samples, mode="tensor"):
        pixels = torch.stack([picture.float().mean() for picture in inputs]) / 255
        labels = torch.stack([_numbers_of(sample) for sample in data_samples])
        return dict(loss=((self.weight * (1 + pixels) - labels) ** 2).mean())


def _numbers_of(sample: BaseDataElement) -> Tensor:
    """Everything that is annotated, in one number."""
    if "gt_label" in sample:
        return sample.gt_label.float().mean()
    if "gt_sem_seg" in sample:
        return sample.gt_sem_seg.data.float().std()
    instances = sample.gt_instances
    return (instances.bboxes.tensor.sum() + 7 * instances.labels.sum()) / 100
