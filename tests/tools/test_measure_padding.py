"""What padding changes: nothing for convolutions far from it, something for SeT."""

import importlib.util
from pathlib import Path

import torch
from torch import nn

from setformer_mm.models import SeTformer

PATH = Path(__file__).resolve().parents[2] / "tools" / "measure_padding.py"
spec = importlib.util.spec_from_file_location("tool_measure_padding", PATH)
measure_padding = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure_padding)


class Pointwise(nn.Module):
    def forward(self, x):
        return (x, x[..., ::4, ::4] + 1)


def test_only_the_area_of_the_image_is_compared():
    changes = measure_padding.relative_changes(Pointwise(), torch.rand(1, 3, 32, 48), 1)
    assert changes.tolist() == [0, 0]


def test_transport_mass_of_padding_changes_every_output():
    arch = dict(embed_dims=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratio=1)
    backbone = SeTformer(arch, attention=dict(reference_shape=(4, 4))).eval()
    image = torch.rand(1, 3, 64, 64)
    assert not measure_padding.relative_changes(backbone, image, 0).any()
    changes = measure_padding.relative_changes(backbone, image, 0.5)
    assert changes.shape == (4,) and changes.min() > 0
