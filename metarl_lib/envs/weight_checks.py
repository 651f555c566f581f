"""Refusals of bad options for base networks as environments, one line each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metarl_lib.datasets import Family
from metarl_lib.envs.weight_state import SIGNALS
from metarl_lib.rules import Network


def check_choice(name: str, value: str | None, allowed: Sequence[str | None]) -> None:
    """A name must be one of those there are."""
    if value not in allowed:
        names = ", ".join(map(str, allowed))
        raise ValueError(f"{name}={value!r} is unknown: choose one of {names}")


def check_numbers(steps: int, init_std: float | None, **positive: float) -> None:
    """A life has whole steps; sizes are positive and finite."""
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: must be a whole number >= 1")
    if init_std is not None and not 0 <= init_std < math.inf:
        raise ValueError(f"init_std={init_std!r}: must be a number >= 0")
    for name, number in positive.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name}={number!r}: must be a positive number")


def check_signals(signals: Sequence[str]) -> None:
    """Signals must be known, and each be named once."""
    known = set(signals) <= set(SIGNALS)
    if not signals or not known or len(set(signals)) < len(signals):
        raise ValueError(
            f"signals={tuple(signals)!r}: choose one or more of {', '.join(SIGNALS)}, each once"
        )


def check_fit(network: Network, family: Family) -> None:
    """A family's inputs and outputs must be those of the network.

    Raises:
        ValueError: names both, and the fix.
    """
    ends = network.widths[0], network.widths[-1]
    if ends != (family.inputs, family.outputs):
        raise ValueError(
            f"widths={tuple(network.widths)} do not fit {type(family).__name__}, which has "
            f"{family.inputs} inputs and {family.outputs} outputs: the first and the last width "
            "must be these"
        )
