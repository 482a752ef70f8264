"""How the benchmarks report: flags, progress, tables, files."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import save_figure, write_atomically
from setformer_mm.utils.json_text import json_text
from setformer_mm.utils.markdown import three_digits

from ..document_sections import require_section, write_section
from ..outputs import (
    require_sources_kept,
    require_writable_figure,
    require_writable_file,
)
from ..timing import ratio

if TYPE_CHECKING:  # only pictures need it
    from matplotlib.figure import Figure

# Seconds that lines of progress keep apart, and after which one is due.
SHORTEST_SILENCE, LONGEST_SILENCE = 1, 10
# Share of the work after which an estimate of the rest means something.
ENOUGH_TO_TELL = 0.03

DPI = 120  # of pictures
_VERSIONS = "torch", "torchao", "timm", "POT", "onnxruntime", "openvino", "nncf"


def start(
    args: argparse.Namespace,
    section: str | None = None,
    sources: Iterable[str | os.PathLike] = (),
) -> None:
    """Apply the common flags; end with a sentence if they cannot be applied.

    Args:
        args: the flags.
        section: the name of the section in ``--document``, as :func:`publish` has it.
        sources: files that are read.
    """
    if getattr(args, "device", "cpu") == "cuda" and not torch.cuda.is_available():
        sys.exit("error: --device cuda needs a GPU that torch can use")
    try:
        _require_targets(args, section, sources)
    except UserError as error:
        sys.exit(f"error: {error}")
    if args.threads:
        torch.set_num_threads(args.threads)


def _require_targets(
    args: argparse.Namespace,
    section: str | None,
    sources: Iterable[str | os.PathLike],
) -> None:
    """Check all files that are to be written, before anything is measured."""
    targets: dict[str, str] = {}
    for name in ("json", "markdown", "document", "plot"):
        path = getattr(args, name, None)
        if not path:
            continue
        if name == "plot":
            require_writable_figure(path, f"--{name}")
        else:
            require_writable_file(path, f"--{name}")
        other = targets.setdefault(os.path.realpath(path), name)
        if other != name:
            raise UserError(f"--{other} and --{name} both name {path}")
    require_sources_kept(sources, targets)
    if section and args.document:
        require_section(args.document, section)


def publish(
    args: argparse.Namespace,
    result: dict,
    render: Callable[[dict], str],
    draw: Callable[[dict], "Figure"] | None = None,
    section: str | None = None,
) -> None:
    """Print the tables of ``result``, and write the files asked for.

    A tool offers ``--plot`` with ``draw``, and ``--document`` with the name of its
    ``section`` there.
    """
    text = render(result)
    print(text)
    if getattr(args, "markdown", None):
        write_atomically(args.markdown, text + "\n")
    if args.json:
        write_atomically(args.json, json_text(result, indent=1))
    if draw and args.plot:
        save_figure(draw(result), args.plot, DPI)
    if section and args.document:
        write_section(args.document, section, text)


def describe(environment: dict) -> str:
    """One sentence about the machine and the versions of a run."""
    versions = ", ".join(
        f"{name} {environment[name]}" for name in _VERSIONS if name in environment
    )
    return (
        f"{environment['device']} ({environment['instructions']}), "
        f"{environment['threads']} threads on {environment['cpus']} CPUs, "
        f"{environment['dtype']}; {versions}; {environment['date']}."
    )


def versus(times: dict[str, list[float]], name: str, other: str) -> str:
    """A ratio with its spread."""
    return "{} ({} to {})".format(*map(three_digits, ratio(times[name], times[other])))


class Progress:
    """Says on stderr what is being done, and how long the rest will take.

    Args:
        total (float): Work to do, in any unit that time is about proportional to.
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self.done = 0.0
        self.what = ""
        self.start = time.monotonic()
        self.shown = 0.0

    def now(self, what: str) -> None:
        """Say what is being done from now on, unless something was just said."""
        self.what = what
        self._show_after(SHORTEST_SILENCE)

    def add(self, work: float) -> None:
        """Count work as done; say so if nothing was said for long."""
        self.done += work
        self._show_after(LONGEST_SILENCE)

    def _show_after(self, silence: float) -> None:
        now = time.monotonic()
        if self.shown and now - self.shown < silence:
            return
        self.shown = now
        share = min(self.done / self.total, 1)
        left = ""
        if share >= ENOUGH_TO_TELL:
            left = f", about {(now - self.start) * (1 / share - 1):.0f} s left"
        print(f"[{100 * share:3.0f} %{left}] {self.what}", file=sys.stderr, flush=True)
