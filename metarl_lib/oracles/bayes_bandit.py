"""The Bayes-optimal Bernoulli bandit, exactly: the ruler that every bandit agent is held against.

Arms pay 1 with probabilities p_i ~ U(0, 1), drawn once, else 0. After s_i successes and f_i
failures the posterior of p_i is Beta(s_i + 1, f_i + 1), so the counts are all that an agent has to
know, and the largest expected total reward obeys

    V_n = 0,   V_t = max_i [ μ_i (1 + V_{t+1}(s_i + 1)) + (1 − μ_i) V_{t+1}(f_i + 1) ],

with μ_i = (s_i + 1) / (s_i + f_i + 2). Arms are exchangeable, so a state is the *multiset* of
their counts; states with equally many pulls form a level, and the levels are solved backwards.
"""

from __future__ import annotations

import math

import numpy as np

from metarl_lib.oracles.checks import check_count

MAX_CELLS = 20_000_000
"""States times arms that are held at once: about half a gigabyte."""


def bayes_optimal(arms: int, pulls: int) -> float:
    """Expected total reward of the best possible agent on a Bernoulli bandit, p_i ~ U(0, 1).

    No agent, learned or made by hand, has a larger expectation. With more arms than pulls the
    value no longer grows, for an agent cannot try them all. Solved in double precision.

    Args:
        arms: k ≥ 1.
        pulls: n ≥ 1. Two arms and 100 pulls (2.3 million states) take a few seconds.

    Raises:
        ValueError: when the states would not fit into memory; says how many there are.
        ArithmeticError: should two states share a random key, which would mix them up.
    """
    check_count("arms", arms)
    check_count("pulls", pulls)
    arms = min(arms, pulls)  # the arms that are never tried do not matter
    sizes = _level_sizes(arms, pulls)

    # An arm with m = s + f pulls has the number m (m + 1) / 2 + s.
    m = np.repeat(np.arange(pulls), np.arange(1, pulls + 1))
    number = np.arange(len(m))
    mean = (number - m * (m + 1) // 2 + 1) / (m + 2)
    after = np.stack([number + m + 2, number + m + 1])  # a success, a failure
    keys = _keys(pulls)

    state = np.zeros((1, arms), dtype=np.int64)  # a row for each state of a level
    states, links = [state], []
    for size in sizes[1:]:
        following = after[:, state]
        key = keys[state].sum(1, keepdims=True) - keys[state] + keys[following]
        found, first, link = np.unique(key, return_index=True, return_inverse=True)
        if len(found) != size:
            raise ArithmeticError("two states share a key: draw other keys")
        _, row, arm = np.unravel_index(first, key.shape)
        state = state[row]
        state[np.arange(size), arm] = following.ravel()[first]
        states.append(state.astype(np.int32))
        links.append(link.reshape(key.shape).astype(np.int32))

    value = mean[states.pop()].max(1)
    for state, (success, failure) in zip(reversed(states), reversed(links), strict=True):
        mu = mean[state]
        value = (mu * (1 + value[success]) + (1 - mu) * value[failure]).max(1)
    return float(value[0])


def _keys(pulls: int) -> np.ndarray:
    """A random 64-bit key for each count an arm can have.

    The key of a state is the sum of its arms' keys modulo 2⁶⁴: the order of the arms drops out,
    and one pull changes it by one difference. That no two states share a key is not left to
    chance: every level must have as many keys as it has states.
    """
    stream = np.random.default_rng(0)
    return stream.integers(2**64, size=(pulls + 1) * (pulls + 2) // 2, dtype=np.uint64)


def _level_sizes(arms: int, pulls: int) -> list[int]:
    """How many states there are with t = 0, …, n − 1 pulls made.

    An arm with j pulls has j + 1 kinds, so the number of multisets of a arms with t pulls in all
    is the coefficient of y^a x^t in Π_j (1 − y x^j)^{−(j+1)}, each of whose factors is
    Σ_i C(j + i, i) y^i x^{ij}.
    """
    # Ordered arms have C(n − 1 + 2k, 2k) states; k! orders fall together at most.
    at_least = math.comb(pulls - 1 + 2 * arms, 2 * arms) // math.factorial(arms)
    _check_fits(arms, pulls, at_least)
    count = np.zeros((arms + 1, pulls))
    count[0, 0] = 1
    for j in range(1, pulls):
        total = count.copy()
        for i in range(1, min(arms, (pulls - 1) // j) + 1):
            total[i:, i * j :] += math.comb(j + i, i) * count[: arms + 1 - i, : pulls - i * j]
        count = total
    _check_fits(arms, pulls, int(count.sum()))
    return [int(size) for size in count.sum(0)]


def _check_fits(arms: int, pulls: int, states: int) -> None:
    if states * arms > MAX_CELLS:
        raise ValueError(
            f"arms={arms}, pulls={pulls}: the exact solution has {states:.1e} states or more, and "
            f"at most {MAX_CELLS // arms:.1e} fit; take fewer arms or pulls, or the Gittins index "
            "as a near-optimal reference"
        )
