"""The cases that the operator is measured on where there is a GPU."""

from dataclasses import dataclass, replace

from .problems import STAGES, Problem


@dataclass(frozen=True)
class Case:
    """A problem in a dtype, with a name for the tables."""

    name: str
    problem: Problem
    dtype: str = "bfloat16"

    def __str__(self) -> str:
        return f"{self.name}, {self.problem}, {self.dtype}"


CLASSIFIER = [
    Case(f"224, stage {number}", Problem(64, *stage))
    for number, stage in enumerate(STAGES, 1)
]
DETECTOR = [
    Case("800x1280, stage 1", Problem(2, 200, 2, 4, width=320)),
    Case("800x1280, stage 2", Problem(2, 100, 4, 4, width=160)),
]
LONG = Case("70,000 tokens", Problem(1, 250, 2, 4, width=280))
CASES = [
    *CLASSIFIER,
    *DETECTOR,
    LONG,
    *(replace(case, dtype="float32") for case in (CLASSIFIER[0], DETECTOR[0])),
]
# Compiling takes up to a minute each: what matters most comes first.
COMPILED_CASES = [CLASSIFIER[0], DETECTOR[0], *CLASSIFIER[1:], DETECTOR[1], LONG]
SMALL = Case("small", Problem(2, 14, 2, 4, width=12))
QUICK_CASES = [SMALL, replace(SMALL, dtype="float32")]
