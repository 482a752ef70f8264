"""The right word beside a wrong one."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A hint at the nearest of the ``known`` words, empty if none is near.

    Returns:
        As ``" (did you mean 'epsilon'?)"``, to stand behind the wrong word.
    """
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower(), lower, n=1, cutoff=0.6)
    return f" (did you mean {lower[near[0]]!r}?)" if near else ""
