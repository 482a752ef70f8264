"""What goes with an exported model comes back as it was."""

import json

from setformer_mm.export import Metadata

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
