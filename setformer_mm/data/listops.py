"""ListOps of the Long Range Arena: nested lists of digits and what they come to.

Nangia and Bowman, arXiv 1804.06028, with the grammar of Tay et al., arXiv 2011.04006:
an expression is a digit with probability 3/4 and a list otherwise, which has one of
four operators and 2 to ``max_args`` expressions; the whole is at depth 1, and at depth
``max_depth`` all are digits.

    [MAX 4 3 [MIN 2 3 ] 1 0 ]    is 4

``[SM`` is the sum modulo 10 and ``[MED`` the median, rounded down. The value of a
sequence is its class. Only sequences whose length is asked for are kept, so that the
lists are those of the grammar given this length.
"""

import statistics
from collections.abc import Callable, Iterator
from random import Random

LIST_PROBABILITY = 0.25
OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
END = "]"
PATIENCE = 300_000  # draws in a row that bring nothing
TOKENS = (*OPERATORS, END, *map(str, range(10)))  # all there are


class _TooLong(Exception):
    """An expression has grown beyond the length that is asked for."""


def random_expression(
    rng: Random, max_depth: int, max_args: int, max_length: int
) -> tuple[list[str], int] | None:
    """Draw an expression from the grammar.

    Args:
        rng: a generator.
        max_depth: of the tree, digits included.
        max_args: expressions of a list, at least 2.
        max_length: tokens, operators and closing brackets included.

    Returns:
        The tokens and the value; None if there would have been more tokens.
    """
    tokens: list[str] = []

    def expression(depth: int) -> int:
        if len(tokens) >= max_length:
            raise _TooLong
        if depth >= max_depth or rng.random() > LIST_PROBABILITY:
            value = rng.randrange(10)
            tokens.append(str(value))
            return value
        operator = rng.choice(tuple(OPERATORS))
        tokens.append(operator)
        values = [expression(depth + 1) for _ in range(rng.randint(2, max_args))]
        tokens.append(END)
        return OPERATORS[operator](values)

    try:
        value = expression(1)
    except _TooLong:
        return None
    return (tokens, value) if len(tokens) <= max_length else None


def listops(
    count: int,
    seed: int,
    min_length: int,
    max_length: int,
    max_depth: int = 10,
    max_args: int = 10,
) -> Iterator[tuple[str, int]]:
    """Draw different sequences.

    Args:
        count: number of sequences.
        seed: of the generator; with the same one, more sequences begin like fewer.
        min_length: tokens, at least.
        max_length: tokens, at most.
        max_depth: see :func:`random_expression`.
        max_args: likewise.

    Yields:
        The tokens with spaces between them, and the value, 0 to 9.

    Raises:
        ValueError: if there seem to be no more sequences of such lengths.
    """
    rng = Random(seed)
    seen = set()
    in_vain = 0
    while len(seen) < count:
        if in_vain == PATIENCE:
            raise ValueError(
                f"{PATIENCE} draws after the first {len(seen)} sequences of "
                f"{min_length} to {max_length} tokens brought no new one"
            )
        in_vain += 1
        drawn = random_expression(rng, max_depth, max_args, max_length)
        if drawn is None or len(drawn[0]) < min_length:
            continue
        source = " ".join(drawn[0])
        if source not in seen:
            seen.add(source)
            in_vain = 0
            yield source, drawn[1]
