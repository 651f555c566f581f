"""The largest learning rate that a rule survives, found by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl_lib.experiments.training import Estimate
from metarl_lib.rules.network import Params


def run_lives(
    estimate: Estimate,
    params: Params,
    learning_rate: float,
    steps: int,
    stream: torch.Generator,
    project: Callable[[Params], Params] | None = None,
) -> Params:
    """Train a batch of networks, one life a row, for some steps at one learning rate."""
    for _ in range(steps):
        params = [
            p - learning_rate * g for p, g in zip(params, estimate(params, stream), strict=True)
        ]
        if project is not None:
            params = project(params)
    return params


def stable_rate(
    estimate: Estimate,
    params: Params,
    loss: Callable[[Sequence[Tensor]], Tensor],
    *,
    steps: int,
    make_stream: Callable[[], torch.Generator],
    low: float = 1e-6,
    high: float = 1e3,
    rounds: int = 12,
) -> float:
    """The learning rate at which the median life ends with more loss than it started with.

    Args:
        estimate: the learning rule, for params with a leading dimension of lives.
        params: initial parameters, `[lives, …]`.
        loss: mean loss of each life, `[lives]`.
        steps: steps of each life.
        make_stream: a fresh noise stream, the same at every call, so that every rate meets the
            same noise.
        low: a rate that is stable.
        high: a rate that is not.
        rounds: halvings of the interval, on a logarithmic scale.

    Returns:
        The geometric middle of the last interval.

    Raises:
        ValueError: when `low` diverges or `high` does not.
    """
    start = loss(params)

    def survives(rate: float) -> bool:
        end = loss(run_lives(estimate, params, rate, steps, make_stream()))
        grew = ~(end <= start)  # NaN counts as growth
        return bool(grew.float().mean() < 0.5)

    if not survives(low):
        raise ValueError(f"low={low:g}: already diverges; start the bisection lower")
    if survives(high):
        raise ValueError(f"high={high:g}: still stable; start the bisection higher")
    bottom, top = math.log(low), math.log(high)
    for _ in range(rounds):
        middle = (bottom + top) / 2
        if survives(math.exp(middle)):
            bottom = middle
        else:
            top = middle
    return math.exp((bottom + top) / 2)
