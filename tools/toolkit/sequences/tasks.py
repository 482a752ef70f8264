"""The tasks on sequences: texts, classes, and the sizes of models and trainings."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from setformer_mm.data.docstrings import PACKAGES, docstrings, versions
from setformer_mm.data.listops import TOKENS, listops
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically

PAD = 0
DATA_SEED = 0  # of all trainings, whose own seeds differ

Text = tuple[str, int]


@dataclass(frozen=True)
class Task:
    """What is to be learned, and how.

    Attributes:
        title: in tables.
        draw: makes the texts of training and test.
        tokens_of: takes a text to numbers from 1 on.
        vocab_size: of these numbers, 0 included.
        num_classes: classes.
        longest: tokens of a sequence.
        epochs: of the training.
        batch_size: likewise.
        learning_rate: its highest.
    """

    title: str
    draw: Callable[[], tuple[list[Text], list[Text]]]
    tokens_of: Callable[[str], list[int]]
    vocab_size: int
    num_classes: int
    longest: int
    epochs: float
    batch_size: int = 32
    learning_rate: float = 1e-3


_NUMBERS = {token: number for number, token in enumerate(TOKENS, 1)}


def listops_tokens(text: str) -> list[int]:
    """Operators, brackets and digits as numbers."""
    return [_NUMBERS[token] for token in text.split()]


def byte_tokens(text: str) -> list[int]:
    """The bytes of a text in ASCII."""
    return list(text.encode("ascii"))


def draw_listops(
    train: int, test: int, min_length: int, max_length: int
) -> tuple[list[Text], list[Text]]:
    """ListOps sequences; none occurs twice."""
    drawn = list(listops(train + test, DATA_SEED, min_length, max_length))
    return drawn[:train], drawn[train:]


def listops_task(
    train: int, test: int, min_length: int, max_length: int, epochs: float, **fields
) -> Task:
    """ListOps of some lengths."""
    return Task(
        f"ListOps, {min_length} to {max_length} tokens",
        lambda: draw_listops(train, test, min_length, max_length),
        listops_tokens,
        len(TOKENS) + 1,
        10,
        max_length,
        epochs,
        **fields,
    )


def docstrings_task(train: int, test: int, max_bytes: int, epochs: float) -> Task:
    """Which package a docstring comes from, byte by byte."""
    return Task(
        f"docstrings, up to {max_bytes} bytes",
        lambda: docstrings(train, test, DATA_SEED, max_bytes),
        byte_tokens,
        128,
        len(PACKAGES),
        max_bytes,
        epochs,
    )


TASKS = {
    "listops-500": listops_task(4000, 1000, 100, 500, epochs=6),
    "listops-2000": listops_task(4000, 1000, 500, 2000, epochs=6),
    "docstrings": docstrings_task(350, 75, 256, epochs=6),
}


@dataclass(frozen=True)
class Data:
    """The texts of a task.

    Attributes:
        train: of the training, with their classes.
        test: of the test.
        digest: a hash of all of them.
    """

    train: list[Text]
    test: list[Text]
    digest: str

    @property
    def majority(self) -> float:
        """Accuracy of the most frequent class of the training, in %."""
        ((label, _),) = Counter(label for _, label in self.train).most_common(1)
        return 100 * sum(other == label for _, other in self.test) / len(self.test)


def load_data(name: str, folder: Path) -> Data:
    """Read the texts of a task, and draw them first if they are not there.

    Args:
        name: in :data:`TASKS`.
        folder: of the files.

    Raises:
        UserError: if they cannot be drawn, or files have another form.
    """
    paths = [folder / f"{name}-{part}.tsv" for part in ("train", "test")]
    if not all(path.exists() for path in paths):
        try:
            parts = TASKS[name].draw()
        except ValueError as error:
            raise UserError(f"the texts of {name} cannot be drawn: {error}") from error
        for path, texts in zip(paths, parts):
            lines = (f"{text}\t{label}\n" for text, label in texts)
            write_atomically(path, "Source\tTarget\n" + "".join(lines))
    contents = [path.read_text(encoding="utf-8") for path in paths]
    digest = hashlib.sha256("\n".join(contents).encode()).hexdigest()
    return Data(*map(_texts_of, paths, contents), digest)


def _texts_of(path: Path, content: str) -> list[Text]:
    try:
        lines = (line.rsplit("\t", 1) for line in content.splitlines()[1:])
        return [(text, int(label)) for text, label in lines]
    except ValueError as error:
        raise UserError(
            f"{path} does not hold texts and classes; remove it to draw them anew"
        ) from error


def describe_sources(name: str) -> dict[str, str]:
    """Versions that the texts of a task depend on."""
    return versions() if name == "docstrings" else {}


def numbered(texts: Sequence[Text], task: Task) -> list[dict]:
    """Texts as the model takes them."""
    return [dict(input_ids=task.tokens_of(text), labels=label) for text, label in texts]
