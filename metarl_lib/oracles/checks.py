"""Refusals of bad input: each is one line that names the value, what is allowed and the fix."""

from __future__ import annotations


def check_count(name: str, value: int, largest: int | None = None) -> None:
    """A number of things must be a whole number from 1 up to, maybe, a largest.

    Raises:
        ValueError: for any other number.
    """
    if not isinstance(value, int) or value < 1 or (largest is not None and value > largest):
        upper = f" and <= {largest}" if largest is not None else ""
        raise ValueError(f"{name}={value!r}: give a whole number >= 1{upper}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """A number must lie within [low, high]; NaN does not.

    Raises:
        ValueError: for a number that does not.
    """
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r}: give a number from {low:g} to {high:g}")
