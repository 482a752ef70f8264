"""The sections of documents that are made of the figures of one tool."""

from pathlib import Path

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import replace_section, write_atomically

# By name, the tool that writes them.
SECTIONS = {
    "sequences": "tools/train_sequences.py",
    "growth": "tools/bench_sequences.py",
    "quantization": "tools/bench_quantization.py",
    "export": "tools/bench_export.py",
    "backbones": "tools/bench_configs.py",
}


def marks_of(name: str) -> tuple[str, str]:
    """The marks before and after a section."""
    return f"<!-- begin {name}: written by {SECTIONS[name]} -->", f"<!-- end {name} -->"


def write_section(document: Path, name: str, section: str) -> None:
    """Write a section between its marks.

    Raises:
        UserError: if the document cannot be read or has no such marks.
    """
    try:
        text = document.read_text(encoding="utf-8")
        text = replace_section(text, *marks_of(name), section.strip("\n"))
    except (OSError, ValueError) as error:
        raise UserError(f"{document} cannot be updated: {error}") from error
    write_atomically(document, text)
