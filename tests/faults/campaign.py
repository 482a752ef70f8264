"""Cases, how they are run, and the figures of all."""

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from setformer_mm.utils.markdown import markdown_table

# How a case may end well.
REFUSED = "refused in one sentence"
IDENTICAL = "same result, bit for bit"
ACCEPTED = "ran, as it still meant something"
OUTCOMES = (REFUSED, IDENTICAL, ACCEPTED)


class Fault(Exception):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Case:
    """One fault that is made.

    Attributes:
        kind: its row among the figures.
        name: all else that tells it from others of its kind.
        run: makes the fault in an empty folder; returns one of :data:`OUTCOMES` or
            raises :class:`Fault`.
    """

    kind: str
    name: str
    run: Callable[[Path], str]


# Draws cases without end; the folder is for what they have in common.
Group = Callable[[random.Random, Path], Iterator[Case]]


@dataclass
class Figures:
    """What came of the cases of one kind."""

    tried: int = 0
    failed: int = 0
    seconds: float = 0.0
    outcomes: Counter = field(default_factory=Counter)


@dataclass
class Campaign:
    """Runs cases and keeps count.

    Attributes:
        seed: of all that is drawn.
        folder: of the cases; of those that fail, theirs stay.
    """

    seed: int
    folder: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="faults-"))
    )
    figures: dict[tuple[str, str], Figures] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def draw(
        self, groups: dict[str, Group], numbers: dict[str, int]
    ) -> Iterator[tuple[str, Case]]:
        """Yield so many cases of each group, mixed, which depend on the seed alone.

        Mixed because they take unequal times: so the time left can be told early, and
        who stops early has seen all groups.
        """
        drawn = {}
        for name in numbers:
            common = self.folder / "common" / name.replace(" ", "_")
            common.mkdir(parents=True)
            drawn[name] = groups[name](random.Random(f"{self.seed} {name}"), common)
        order = [name for name, number in numbers.items() for _ in range(number)]
        random.Random(self.seed).shuffle(order)
        for name in order:
            yield name, next(drawn[name])

    def run(self, group: str, case: Case) -> str | None:
        """Run a case.

        Returns:
            What failed.
        """
        figures = self.figures.setdefault((group, case.kind), Figures())
        folder = Path(tempfile.mkdtemp(prefix="case-", dir=self.folder))
        figures.tried += 1
        start = time.perf_counter()
        try:
            figures.outcomes[case.run(folder)] += 1
            shutil.rmtree(folder)
        except Exception as error:  # of any type: no other case is lost by it
            figures.failed += 1
            failure = f"{group}: {case.kind}, {case.name} (see {folder}): {error!r}"
            self.failures.append(failure)
            return failure
        finally:
            figures.seconds += time.perf_counter() - start
        return None

    def end(self) -> None:
        """Remove the folder, unless something in it has failed."""
        if not self.failures:
            shutil.rmtree(self.folder)

    def markdown(self) -> str:
        """One row a kind, and the sum."""
        total = Figures()
        rows = []
        for (group, kind), figures in sorted(self.figures.items()):
            rows.append([f"{group}: {kind}", *_cells(figures)])
            total.tried += figures.tried
            total.failed += figures.failed
            total.seconds += figures.seconds
            total.outcomes += figures.outcomes
        header = ["what", "cases", *OUTCOMES, "failed", "seconds"]
        return markdown_table(header, [*rows, ["all", *_cells(total)]])


def _cells(figures: Figures) -> Sequence[str]:
    outcomes = (figures.outcomes[name] for name in OUTCOMES)
    numbers = map(str, (figures.tried, *outcomes, figures.failed))
    return [*numbers, f"{figures.seconds:.0f}"]
