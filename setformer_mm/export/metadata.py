"""What whoever serves an exported model has to know, and finds in its file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from ..version import __version__


@dataclass(frozen=True)
class Metadata:
    """How to make the input from a picture, and what the outputs are.

    Attributes:
        task (str): "classification" (logits of a picture), "segmentation" (logits of
            its pixels) or "features" (maps of rising stride).
        outputs (tuple[str, ...]): Names of the outputs, in their order.
        mean (tuple[float, ...]): What is subtracted from each channel of 0 to 255.
        std (tuple[float, ...]): What each channel is then divided by.
        channel_order (str): "RGB" or "BGR", of ``mean``, ``std`` and the input.
        classes (tuple[str, ...]): Names, in the order of logits; () if unknown.
        sizes (str): "open", or the one size as "1x3x64x64".
        precision (str): "float32" or "int8".
        made_by (str): The version of this package.
    """

    task: str
    outputs: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str
    classes: tuple[str, ...] = ()
    sizes: str = "open"
    precision: str = "float32"
    made_by: str = f"setformer_mm {__version__}"

    def as_strings(self) -> dict[str, str]:
        """Each field as JSON, which is what all formats can hold."""
        return {
            name: json.dumps(value, allow_nan=False)
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> "Metadata":
        """The inverse of :meth:`as_strings`; keys of others are left out.

        Raises:
            ValueError: If a field is missing, as in a file of another program, or is no
                JSON.
        """
        values = {}
        for field in fields(cls):
            if field.name not in strings:
                raise ValueError(
                    f"metadata of an exported model must have {field.name!r}, got "
                    f"{sorted(strings)}; tools/export.py writes them"
                )
            value = json.loads(strings[field.name])
            values[field.name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)
