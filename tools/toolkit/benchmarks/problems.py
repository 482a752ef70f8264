"""The problems that the operator is measured on."""

import math
from dataclasses import dataclass

# Numbers of tokens of the single image.
SWEEP = (49, 196, 784, 3136, 16384, 65536, 262144)
# Of SeTformer-T: side of the grid, heads, side of the grid of references.
STAGES = ((56, 2, 4), (28, 4, 4), (14, 8, 4), (7, 16, 4))


@dataclass(frozen=True)
class Problem:
    """A batch of grids of tokens, and heads with as many anchors as channels.

    Grids have ``side`` rows, and as many columns unless they have a ``width``.
    """

    batch: int
    side: int
    heads: int
    reference_side: int
    dim: int = 32
    width: int | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens ``N`` of an image."""
        return math.prod(self.grids[0])

    @property
    def references(self) -> int:
        """Number of references ``M`` of a head."""
        return self.reference_side**2

    @property
    def grids(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of the grids of tokens and of references."""
        return (self.side, self.width or self.side), (self.reference_side,) * 2

    def __str__(self) -> str:
        return f"{self.batch} x {self.tokens} tokens, {self.heads} heads"


def single_image(tokens: int) -> Problem:
    """The problem whose number of tokens varies."""
    return Problem(1, math.isqrt(tokens), 2, 4)
