"""``python -m setformer_mm.ops``: which backends can be used, and why others cannot."""

import torch

from ..version import __version__
from .backends import available_backends
from .extension import INSTRUCTION_SET


def main() -> None:
    """Print what a report of a problem should begin with."""
    print(
        f"setformer_mm {__version__}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    for name, why_not in available_backends().items():
        print(f"  {name:10}{'available' if why_not is None else f'not: {why_not}'}")
    if INSTRUCTION_SET is not None:
        print(f"The CPU kernels use {INSTRUCTION_SET} instructions.")


if __name__ == "__main__":
    main()
