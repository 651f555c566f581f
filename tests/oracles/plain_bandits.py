"""Bernoulli bandits one at a time, in plain Python: probabilities of choices, trees of results."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
from scipy import integrate, stats


def mean(s, f):
    return Fraction(s + 1, s + f + 2)


def expectimax(arms, pulls):
    """The Bayes-optimal total reward, arm by arm and pull by pull, no symmetry used."""

    @cache
    def value(counts, left):
        if not left:
            return Fraction(0)
        return max(pull(counts, arm, lambda after: value(after, left - 1)) for arm in range(arms))

    return value(((0, 0),) * arms, pulls)


def expected_total(choose, arms, pulls):
    """The expected total reward of a policy: `choose(counts, time)` gives each arm's chance."""

    @cache
    def value(counts, time):
        if time == pulls:
            return 0.0
        return sum(
            float(chance) * float(pull(counts, arm, lambda after: value(after, time + 1)))
            for arm, chance in enumerate(choose(counts, time))
            if chance
        )

    return value(((0, 0),) * arms, 0)


def pull(counts, arm, future):
    s, f = counts[arm]
    mu = mean(s, f)
    won = (*counts[:arm], (s + 1, f), *counts[arm + 1 :])
    lost = (*counts[:arm], (s, f + 1), *counts[arm + 1 :])
    return mu * (1 + future(won)) + (1 - mu) * future(lost)


def shares(values):
    """Equal chances for all that are largest."""
    best = [value == max(values) for value in values]
    return [Fraction(b, sum(best)) for b in best]


def greedy(counts, time):
    return shares([mean(*c) for c in counts])


def random_policy(counts, time):
    return [Fraction(1, len(counts))] * len(counts)


def epsilon_greedy(epsilon):
    def choose(counts, time):
        best, k = greedy(counts, time), len(counts)
        return [epsilon / k + (1 - epsilon) * float(b) for b in best]

    return choose


def ucb(c):
    def bound(s, f, time):
        n = s + f
        return s / n + c * math.sqrt(2 * math.log(time) / n) if n else math.inf

    return lambda counts, time: shares([bound(*arm, time) for arm in counts])


def index_policy(index):
    """Of an index `index(s, f, time)`; what differs by less than its rounding is equal."""
    return lambda counts, time: shares([round(index(*arm, time), 6) for arm in counts])


def thompson(counts, time):
    """By quadrature: arm i is best at x while all others are below x."""
    arms = [stats.beta(s + 1, f + 1) for s, f in counts]

    def chance(i):
        others = [arm for j, arm in enumerate(arms) if j != i]
        return integrate.quad(lambda x: arms[i].pdf(x) * np.prod([a.cdf(x) for a in others]), 0, 1)

    return [chance(i)[0] for i in range(len(arms))]


def optimistic_thompson(counts, time):
    """As `thompson`, for two arms: a draw below the mean counts as the mean."""
    (one, two), (a, b) = [stats.beta(s + 1, f + 1) for s, f in counts], [mean(*c) for c in counts]
    first = integrate.quad(lambda x: one.pdf(x) * two.cdf(x), max(a, b), 1)[0]
    if a > b:  # arm 0 stays at its mean, arm 1 below that
        first += one.cdf(float(a)) * two.cdf(float(a))
    if a == b:  # both at the same mean
        first += one.cdf(float(a)) * two.cdf(float(b)) / 2
    return [first, 1 - first]
