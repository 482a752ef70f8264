"""Predictions as plain data, and what is laid over the picture."""

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from toolkit.explore.drawable_predictions import instances, segments


def test_segments_with_and_without_name_and_colour():
    sample = SegDataSample()
    sample.pred_sem_seg = PixelData(data=torch.tensor([[[0, 0, 1, 5]]]))
    names = dict(classes=("a", "b"), palette=[(0, 0, 0), (9, 8, 7)])
    found = segments(sample, names, 0.3)
    assert [item["label"] for item in found.items] == ["a", "b", "class 5"]
    assert [item["score"] for item in found.items] == [0.5, 0.25, 0.25]
    assert found.items[1]["color"] == "rgb(9, 8, 7)"
    assert not found.overlay[0, :2].any()
    assert found.overlay[0, 2, :3].tolist() == [9, 8, 7]
    assert found.overlay[0, 3].any()


def test_instances_without_masks_and_below_the_threshold():
    sample = DetDataSample()
    sample.pred_instances = InstanceData(
        scores=torch.tensor([0.9, 0.2]),
        labels=torch.tensor([1, 0]),
        bboxes=torch.tensor([[0.0, 1, 2, 3], [0, 0, 1, 1]]),
    )
    found = instances(sample, {}, 0.3)
    assert found.overlay is None
    (item,) = found.items
    assert item["label"] == "class 1" and item["box"] == [0, 1, 2, 3]
