"""Gittins indices of a Bernoulli arm whose unknown p has the prior U(0, 1).

An arm that has shown s successes and f failures is worth the constant reward λ for which one is
indifferent between the two. Play the arm against λ, with m pulls left, and stop when it no longer
pays; then the surplus over always taking λ is

    U_m(s, f; λ) = max(0, C_m(s, f; λ)),
    C_m(s, f; λ) = μ − λ + γ [ μ U_{m−1}(s + 1, f; λ) + (1 − μ) U_{m−1}(s, f + 1; λ) ],

with U_0 = 0 and μ = (s + 1) / (s + f + 2), and the index is the root of C_m in λ. With γ < 1 and
m → ∞ always pulling the arm of the largest index is optimal (Gittins, 1979). With γ = 1 and m the
pulls that remain it is the finite-horizon Gittins index, whose policy is not quite optimal, but
nearly so (Lattimore, 2016), and can be computed where the exact solution cannot.

Method: λ = sin² θ runs over a grid, even in θ, for the width of a posterior is near √(μ(1 − μ)). As
m falls by one whenever s + f grows by one, the arms with equal m + s + f form a chain of their own,
which is solved backwards for all λ and s at once. C_m is convex, decreasing and piecewise linear in
λ; its root is interpolated linearly between the two points around its change of sign, so the index
is never too small. Held against bisection in double precision, it is too large by at most (and in
the root mean square) 5e-5 (6e-6) for n = 10, 3e-4 (3e-5) for n = 100 and 6e-4 (2e-4) for n = 500;
the last table takes 20 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.oracles.checks import check_count, check_range

LEVELS = 512
"""Intervals of the grid of λ for the many chains of the finite horizon."""

DISCOUNTED_LEVELS = 1024
"""The same for the one chain of a discounted table."""

TAIL = 1e-6
"""What the future beyond the last pull of a discounted chain may be worth."""

MAX_PULLS = 1000


class FiniteHorizonGittins:
    """Indices of all that an arm can have shown at every time of a bandit with up to n pulls.

    Args:
        pulls: n, from 1 to 1,000. The table has n³ / 6 numbers of 4 bytes.
        levels: the grid of λ has one point more.

    Raises:
        ValueError: for numbers out of range, and when an index is asked for that the table does
            not hold.
    """

    def __init__(self, pulls: int, levels: int = LEVELS) -> None:
        check_count("pulls", pulls, MAX_PULLS)
        check_count("levels", levels)
        self.pulls = pulls
        # For each m = 1, …, n, the arms with up to n − m pulls.
        self.indices = [torch.empty(_place(pulls - m + 1, 0)) for m in range(1, pulls + 1)]
        for length in range(1, pulls + 1):
            for j, roots in _chain(length, 1.0, levels, tail=False):
                self.indices[length - j - 1][_place(j, 0) : _place(j + 1, 0)] = roots

    def __call__(
        self, successes: Float[Tensor, "*B"], failures: Float[Tensor, "*B"], left: int
    ) -> Float[Tensor, "*B"]:
        """Indices of arms with these counts and m = `left` pulls to come."""
        check_count("left", left, self.pulls)
        return _look_up(self.indices[left - 1], successes, failures, self.pulls - left)


class DiscountedGittins:
    """Indices for an endless future discounted by γ a pull, of arms pulled up to n times.

    One chain goes on beyond n until what follows is worth less than 1e-6, and counts p as known
    from there on.

    Args:
        pulls: n, the most pulls an arm can have had, from 1 to 1,000.
        discount: γ, from 0.01 to 0.995 (15 seconds; 0.99 takes 3).
        levels: the grid of λ has one point more.

    Raises:
        ValueError: as of `FiniteHorizonGittins`.
    """

    def __init__(self, pulls: int, discount: float, levels: int = DISCOUNTED_LEVELS) -> None:
        check_count("pulls", pulls, MAX_PULLS)
        check_range("discount", discount, 0.01, 0.995)
        check_count("levels", levels)
        self.pulls = pulls
        self.indices = torch.empty(_place(pulls + 1, 0))
        beyond = math.ceil(math.log(TAIL * (1 - discount)) / math.log(discount))
        for j, roots in _chain(pulls + beyond, discount, levels, tail=True):
            if j <= pulls:
                self.indices[_place(j, 0) : _place(j + 1, 0)] = roots

    def __call__(
        self, successes: Float[Tensor, "*B"], failures: Float[Tensor, "*B"], left: int
    ) -> Float[Tensor, "*B"]:
        """Indices of arms with these counts; the pulls `left` do not matter to them."""
        return _look_up(self.indices, successes, failures, self.pulls)


def _chain(length: int, discount: float, levels: int, tail: bool) -> Iterator[tuple[int, Tensor]]:
    """Indices of the arms with j = length − 1, …, 0 pulls and length − j left, for s = 0, …, j.

    Args:
        length: m + s + f of the chain.
        discount: γ.
        levels: the grid of λ has one point more.
        tail: after the last pull p is known and the game is endless; else it is over.
    """
    grid = torch.linspace(0, math.pi / 2, levels + 1).sin().square()
    surplus = torch.zeros(length + 1, levels + 1)  # a row for each s
    if tail:
        surplus = (_mean(length) - grid).clamp_min(0) / (1 - discount)
    for j in range(length - 1, -1, -1):
        mu = _mean(j)
        value = torch.lerp(surplus[: j + 1], surplus[1 : j + 2], mu)
        if discount != 1:
            value *= discount
        value += mu
        value -= grid
        yield j, _roots(value, grid)
        surplus = value.clamp_min_(0)


def _roots(value: Tensor, grid: Tensor) -> Tensor:
    """Where each row, falling over the grid from ≥ 0 to ≤ 0, is zero."""
    right = (value > 0).sum(1, keepdim=True).clamp_(1, len(grid) - 1)
    above, below = value.gather(1, right - 1), value.gather(1, right)
    return torch.lerp(grid[right - 1], grid[right], above / (above - below)).squeeze(1)


def _mean(j: int) -> Tensor:
    """Posterior means after j pulls, a row for each s."""
    return torch.arange(1, j + 2).unsqueeze(1) / (j + 2)


def _place(j: int, s: int) -> int:
    """Where a table holds an arm with j pulls and s successes."""
    return j * (j + 1) // 2 + s


def _look_up(table: Tensor, successes: Tensor, failures: Tensor, most: int) -> Tensor:
    pulled = successes + failures
    if bool((pulled > most).any()):
        raise ValueError(
            f"an arm has {int(pulled.max())} pulls, at most {most} are in this place of the "
            "table: make one with more pulls"
        )
    place = (pulled * (pulled + 1) / 2 + successes).long()
    return table.to(successes.device)[place].to(successes.dtype)
