"""Refusals of bad options of environments: one line that names the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_choice(name: str, value: str | None, allowed: Sequence[str | None]) -> None:
    """A name must be one of those there are.

    Raises:
        ValueError: for another name; lists those there are.
    """
    if value not in allowed:
        names = ", ".join(map(str, allowed))
        raise ValueError(f"{name}={value!r} is unknown: choose one of {names}")


def check_whole(name: str, value: int, least: int = 1) -> None:
    """A count must be a whole number, and not below the least.

    Raises:
        ValueError: for any other value, true and false among them.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number >= {least}")


def check_probability(name: str, value: float) -> None:
    """A probability must lie between 0 and 1.

    Raises:
        ValueError: for a number that does not.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: must lie between 0 and 1, a probability")


def check_positive(name: str, value: float) -> None:
    """A size must be positive and finite.

    Raises:
        ValueError: for a number that is not.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: must be a positive number")
