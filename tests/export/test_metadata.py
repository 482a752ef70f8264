"""What goes with an exported model comes back as it was."""

import json

import pytest
import torch
from torch import nn

from setformer_mm.export import FORMATS, Metadata

METADATA = Metadata(
    task="classification",
    outputs=("logits",),
    mean=(1.5, 2.0, 3.0),
    std=(4.0, 5.0, 6.0),
    channel_order="BGR",
    classes=("Ä", 'a "b"'),
    sizes="1x3x32x40",
    precision="int8",
)


def test_strings_are_json_and_are_read_back():
    strings = METADATA.as_strings()
    assert json.loads(strings["mean"]) == [1.5, 2, 3]
    assert Metadata.from_strings(strings | {"producer": "not JSON"}) == METADATA


def test_files_of_other_programs(tmp_path):
    path = tmp_path / "theirs.pt2"
    torch.export.save(torch.export.export(nn.Identity(), (torch.ones(1),)), path)
    with pytest.raises(ValueError, match=r"must have 'task', got \[\]; tools/export"):
        FORMATS["torch-export"].read_metadata(path)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_files_of_other_programs_in_their_formats(to, tmp_path):
    for module in FORMATS[to].needs:
        pytest.importorskip(module)
    path = tmp_path / "theirs.onnx"
    program = torch.onnx.export(nn.ReLU(), (torch.ones(1),), dynamo=True)
    program.save(path)
    if to == "openvino":
        import openvino

        openvino.save_model(openvino.convert_model(path), tmp_path / "theirs.xml")
        path = tmp_path / "theirs.xml"
    with pytest.raises(ValueError, match="must have 'task', got .*; tools/export"):
        FORMATS[to].read_metadata(path)
