"""Refusals of bad options for base networks as environments, one line each."""

from __future__ import annotations

from collections.abc import Sequence

from metarl_lib.datasets import Family
from metarl_lib.envs.weight_state import SIGNALS
from metarl_lib.rules import Network


def check_signals(signals: Sequence[str]) -> None:
    """Signals must be known, and each be named once.

    Raises:
        ValueError: for an unknown or repeated name, or none at all; lists those there are.
    """
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
