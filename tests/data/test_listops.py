"""ListOps: values by a parser of its own, the grammar's frequencies, repetition."""

import re
from collections import Counter
from itertools import islice
from random import Random

import numpy as np
import pytest

from setformer_mm.data.listops import TOKENS, listops, random_expression


def value_of(source: str) -> int:
    """Replace innermost lists by their values until a digit is left."""
    functions = {
        "MIN": np.min,
        "MAX": np.max,
        "MED": np.median,
        "SM": lambda values: np.sum(values) % 10,
    }

    def of_list(match: re.Match) -> str:
        values = [int(digit) for digit in match[2].split()]
        return str(int(functions[match[1]](values)))

    while "[" in source:
        source = re.sub(r"\[(\w+) ([\d ]+) \]", of_list, source)
    return int(source)


@pytest.mark.parametrize("max_length", [200, 500])
def test_values(max_length):
    drawn = list(listops(60, 0, max_length // 2, max_length))
    assert {value_of(source) == value for source, value in drawn} == {True}
    for source, _ in drawn:
        tokens = source.split()
        assert max_length // 2 <= len(tokens) <= max_length
        assert set(tokens) <= set(TOKENS)


def test_the_published_example():
    assert value_of("[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]") == 5


def test_the_median_of_an_even_number_is_rounded_down():
    drawn = (random_expression(Random(seed), 2, 2, 4) for seed in range(400))
    medians = [tokens for tokens, _ in filter(None, drawn) if tokens[0] == "[MED"]
    assert any((int(a) + int(b)) % 2 for _, a, b, _ in medians)
    values = {" ".join(tokens): value_of(" ".join(tokens)) for tokens in medians}
    for seed in range(400):
        drawn = random_expression(Random(seed), 2, 2, 4)
        if drawn and drawn[0][0] == "[MED":
            assert values[" ".join(drawn[0])] == drawn[1]
            assert drawn[1] == (int(drawn[0][1]) + int(drawn[0][2])) // 2


def test_frequencies_of_the_grammar():
    """A quarter are lists, all operators and numbers of arguments equally often."""
    rng = Random(1)
    drawn = [random_expression(rng, 2, 5, 99)[0] for _ in range(8000)]
    lists = [tokens for tokens in drawn if len(tokens) > 1]
    assert len(lists) / len(drawn) == pytest.approx(0.25, abs=0.03)
    for counts in (Counter(t[0] for t in lists), Counter(len(t) - 2 for t in lists)):
        assert len(counts) == 4
        shares = np.array([*counts.values()]) / len(lists)
        assert shares == pytest.approx(np.full(4, 0.25), abs=0.05)
    digits = Counter(tokens[0] for tokens in drawn if len(tokens) == 1)
    assert np.array([*digits.values()]) == pytest.approx(np.full(10, 600), rel=0.2)


def depth_of(source: str) -> int:
    steps = np.array([t.startswith("[") - (t == "]") for t in source.split()])
    assert steps.sum() == 0
    return int(steps.cumsum().max())


def test_depth_and_branching_are_limits():
    for source, _ in listops(50, 2, 20, 60, max_depth=3, max_args=4):
        assert depth_of(source) <= 2
        while "[" in source:
            for inner in re.findall(r"\[\w+ ([\d ]+) \]", source):
                assert 2 <= len(inner.split()) <= 4
            source = re.sub(r"\[\w+ [\d ]+ \]", "0", source)


def test_more_than_there_are(monkeypatch):
    """Four operators of two digits each."""
    monkeypatch.setattr("setformer_mm.data.listops.PATIENCE", 20_000)
    with pytest.raises(ValueError, match="the first 400 sequences of 4 to 4 tokens"):
        list(listops(401, 0, 4, 4, max_depth=2, max_args=2))


def test_no_sequence_twice_and_the_same_ones_for_a_seed():
    drawn = list(listops(300, 3, 4, 8))
    assert len({source for source, _ in drawn}) == 300
    assert drawn[:100] == list(listops(100, 3, 4, 8))
    assert drawn[:100] != list(islice(listops(100, 4, 4, 8), 100))
