"""Which package does this docstring come from: a text task without a download.

Docstrings of the standard library and of installed packages are read from their source
files, without importing them. What a package is called is masked in all texts, spaces
and line ends count as one space, and a text is cut after a number of bytes. A text that
occurs twice is left out. Training and test come from different files, and texts of the
test that share a passage of :data:`PASSAGE` characters with a training text are left
out.

The texts are those of the versions installed.
"""

import ast
import re
import sys
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from random import Random

# Packages and what else they are called. The position of a package is its class.
PACKAGES = {
    "python": (),
    "matplotlib": ("mpl", "pyplot", "plt"),
    "mmdet": ("mmdetection", "openmmlab"),
    "networkx": ("nx",),
    "numpy": ("np",),
    "scipy": (),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "sympy": (),
    "torch": ("pytorch",),
}
DISTRIBUTIONS = dict(
    mmdet="onedl-mmdetection", skimage="scikit-image", sklearn="scikit-learn"
)
MASK = "_"
SHORTEST = 100  # bytes of a text
PASSAGE = 60  # characters in a row that training and test may not share
# Folders whose code is not the package's own, or is there to test it.
NOT_ITS_OWN = {"test", "tests", "testing", "site-packages", "_vendor", ".mim"}

Text = tuple[str, int]


def docstrings(
    train: int, test: int, seed: int, max_bytes: int
) -> tuple[list[Text], list[Text]]:
    """Draw texts, equally many of each package.

    Args:
        train: texts of a package to train with.
        test: texts of a package to test with.
        seed: of the choice of files and texts.
        max_bytes: after which a text is cut.

    Returns:
        Texts and their classes, of the training and of the test, in random order.

    Raises:
        ValueError: if a package is not installed or has too few texts.
    """
    rng = Random(seed)
    by_file = {name: texts_of(name, max_bytes) for name in PACKAGES}
    texts = (t for files in by_file.values() for found in files.values() for t in found)
    once = {text for text, count in Counter(texts).items() if count == 1}
    parts: list[list[Text]] = [[], []]
    share = train / (train + test)
    for label, files in enumerate(by_file.values()):
        for _, found in sorted(files.items()):
            of_test = rng.random() > share
            parts[of_test] += [(text, label) for text in found if text in once]
    for part in parts:
        rng.shuffle(part)
    chosen = first_of_each(parts[0], train)
    known = {passage for text, _ in chosen for passage in passages(text)}
    fresh = [item for item in parts[1] if known.isdisjoint(passages(item[0]))]
    return chosen, first_of_each(fresh, test)


def texts_of(package: str, max_bytes: int) -> dict[str, list[str]]:
    """The texts of a package, by file."""
    return {
        str(path): [
            text
            for docstring in docstrings_of_file(path)
            if len(text := plain(docstring, max_bytes)) >= SHORTEST
        ]
        for path in source_files(package)
    }


def source_files(package: str) -> list[Path]:
    """The Python files of a package, without those of its tests.

    Raises:
        ValueError: if it is not installed.
    """
    root = folder_of(package)
    if root is None:
        raise ValueError(f"docstrings need the package {package}, which is missing")
    files = sorted(root.rglob("*.py"))
    return [
        path
        for path in files
        if NOT_ITS_OWN.isdisjoint(path.relative_to(root).parts)
        and not path.name.startswith("test_")
    ]


def folder_of(package: str) -> Path | None:
    """Where a package would be imported from."""
    if package == "python":
        return Path(sysconfig.get_path("stdlib"))
    spec = find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec else None


def docstrings_of_file(path: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and functions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # of another Python
        return
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            yield docstring


_NAMES = re.compile(
    r"\b(?:{})\b".format("|".join(n for p in PACKAGES.items() for n in (p[0], *p[1]))),
    re.IGNORECASE,
)


def plain(docstring: str, max_bytes: int) -> str:
    """A docstring in ASCII on one line, with names masked, and cut."""
    ascii_text = docstring.encode("ascii", "replace").decode()
    return _NAMES.sub(MASK, " ".join(ascii_text.split()))[:max_bytes]


def passages(text: str) -> Iterator[str]:
    """All runs of :data:`PASSAGE` characters."""
    return (text[i : i + PASSAGE] for i in range(len(text) - PASSAGE + 1))


def first_of_each(texts: Sequence[Text], count: int) -> list[Text]:
    """The first ``count`` texts of each class, in their order.

    Raises:
        ValueError: if there are fewer.
    """
    taken = defaultdict(int)
    chosen = []
    for text, label in texts:
        if taken[label] < count:
            taken[label] += 1
            chosen.append((text, label))
    for label, name in enumerate(PACKAGES):
        if taken[label] < count:
            raise ValueError(
                f"{count} docstrings of {name} are asked for, and there are "
                f"{taken[label]}; ask for fewer"
            )
    return chosen


def versions() -> dict[str, str]:
    """The versions whose docstrings these are."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        if name not in found:
            try:
                found[name] = version(DISTRIBUTIONS.get(name, name))
            except PackageNotFoundError:
                found[name] = "unknown"
    return found
