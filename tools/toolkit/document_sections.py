"""The sections of documents that are made of the figures of one tool."""

import os
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


def require_section(document: str | os.PathLike, name: str) -> None:
    """Check that a document has a section.

    Raises:
        UserError: if it cannot be read or has no marks of it.
    """
    _with_section(document, name, "")


def write_section(document: str | os.PathLike, name: str, section: str) -> None:
    """Write a section between its marks.

    Raises:
        UserError: as :func:`require_section`.
    """
    write_atomically(document, _with_section(document, name, section))


def _with_section(document: str | os.PathLike, name: str, section: str) -> str:
    try:
        text = Path(document).read_text(encoding="utf-8")
        return replace_section(text, *marks_of(name), section.strip("\n"))
    except (OSError, ValueError) as error:
        raise UserError(f"{document} cannot be updated: {error}") from error
