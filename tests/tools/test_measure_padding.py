"""What padding changes: nothing for SeTformer, unless it is told to ignore it."""

import importlib.util
from pathlib import Path

import pytest
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


def test_padding_changes_what_ignores_it():
    arch = dict(embed_dims=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratio=1)
    backbone = SeTformer(arch, attention=dict(reference_shape=(4, 4))).eval()
    ignoring = measure_padding.ignoring(backbone)
    image = torch.rand(1, 3, 64, 64)
    assert not measure_padding.relative_changes(backbone, image, 0).any()
    changes = measure_padding.relative_changes(backbone, image, 0.5)
    assert changes.shape == (4,) and changes.max() < 1e-5
    # How much depends on the weights drawn: from 1e-3 to a hundred times more.
    assert measure_padding.relative_changes(ignoring, image, 0.5).min() > 1e-4
    rows = measure_padding.measure(
        {"as it is": backbone, "padding ignored": ignoring}, [image], rounds=1
    )
    (name, *changes, ratio), (_, *others, _) = rows
    assert name == "as it is" and max(map(float, changes)) < 1e-3
    assert min(map(float, others)) > 0.01 and float(ratio) > 0


def test_peers_have_their_channels_first():
    pytest.importorskip("timm")
    backbones, images = measure_padding.peers(1)
    for name in ("Swin-T", "ConvNeXt-T"):
        with torch.no_grad():
            maps = backbones[name](images[0])
        assert [m.shape[1] for m in maps] == [96, 192, 384, 768]
        assert [m.shape[2] for m in maps] == [56, 28, 14, 7]
