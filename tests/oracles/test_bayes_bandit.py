"""The exact solution of the Bernoulli bandit against a tree that uses no symmetry."""

from itertools import combinations_with_replacement

import numpy as np
import plain_bandits as plain
import pytest

from metarl_lib import oracles
from metarl_lib.oracles import bayes_bandit


@pytest.mark.parametrize(
    ("arms", "pulls"), [(1, 1), (1, 6), (2, 1), (2, 2), (2, 7), (3, 5), (4, 4), (5, 3), (3, 2)]
)
def test_the_optimum_is_that_of_the_whole_tree(arms, pulls):
    exact = float(plain.expectimax(arms, pulls))
    assert oracles.bayes_optimal(arms, pulls) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize(
    ("arms", "pulls", "known", "digits"),
    [
        (5, 10, 6.6600, 4),
        (10, 10, 6.7140, 4),
        (50, 10, 6.7140, 4),
        (2, 10, 6.0218, 4),
        (2, 100, 64.918, 3),
    ],
)
def test_the_optimum_has_the_known_values(arms, pulls, known, digits):
    assert round(oracles.bayes_optimal(arms, pulls), digits) == known


def test_more_arms_help_until_there_are_as_many_as_pulls():
    values = [oracles.bayes_optimal(arms, 6) for arms in range(1, 10)]
    assert values[0] == 3
    assert all(a < b for a, b in zip(values[:5], values[1:6], strict=True))
    assert values[5:] == [values[5]] * 4


@pytest.mark.parametrize(("arms", "pulls"), [(1, 5), (2, 6), (3, 5), (4, 5)])
def test_levels_are_as_large_as_counted_one_by_one(arms, pulls):
    kinds = [(s, j - s) for j in range(pulls) for s in range(j + 1)]
    found = [0] * pulls
    for state in combinations_with_replacement(kinds, arms):
        total = sum(map(sum, state))
        if total < pulls:
            found[total] += 1
    assert bayes_bandit._level_sizes(arms, pulls) == found


def test_states_that_share_a_key_are_noticed(monkeypatch):
    monkeypatch.setattr(bayes_bandit, "_keys", lambda n: np.arange(n * n + 9, dtype=np.uint64) % 7)
    with pytest.raises(ArithmeticError, match="share a key"):
        oracles.bayes_optimal(3, 6)


@pytest.mark.parametrize(
    ("arms", "pulls", "message"),
    [
        (0, 5, "arms=0: give a whole number >= 1"),
        (2, 0, "pulls=0: give a whole number >= 1"),
        (5, 100, r"arms=5, pulls=100: .* 3\.6e\+11 states or more, and at most 4\.0e\+06 fit"),
        (2, 10**6, r"pulls=1000000: .*e\+22 states"),
        (20, 30, r"arms=20, pulls=30: .* take fewer arms or pulls"),
    ],
)
def test_what_cannot_be_solved_is_refused(arms, pulls, message):
    with pytest.raises(ValueError, match=message):
        oracles.bayes_optimal(arms, pulls)
