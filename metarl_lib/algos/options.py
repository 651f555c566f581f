"""Fields of a configuration, and the refusal of bad ones: one line with what is allowed.

Each check takes the configuration and the names of the fields that it looks at, in their order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any


def option(default: Any, help: str) -> Any:
    """A field of a configuration, with the text that the command line and the book show."""
    return field(default=default, metadata={"help": help})


def check_positive(config: Any, *names: str) -> None:
    """Refuse a configuration in which one of these numbers, or tuples of them, is not > 0.

    Raises:
        ValueError: for such a number, one that is not finite, or an empty tuple.
    """
    for name in names:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(0 < v < math.inf for v in values):
            text = ",".join(map(str, values)) if isinstance(value, tuple) else value
            raise ValueError(f"{name}={text}: must be greater than 0 and finite")


def check_not_negative(config: Any, *names: str) -> None:
    """Refuse a configuration in which one of these numbers is not >= 0.

    Raises:
        ValueError: for such a number, or one that is not finite.
    """
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{name}={getattr(config, name)}: must be 0 or more, and finite")


def check_share(config: Any, *names: str) -> None:
    """Refuse a configuration in which one of these numbers does not lie between 0 and 1.

    Raises:
        ValueError: for such a number.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)}: must lie between 0 and 1")


def check_whole(config: Any, *names: str, least: int = 1) -> None:
    """Refuse a configuration in which one of these is no whole number, or below the least.

    Raises:
        ValueError: for such a value.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: must be a whole number >= {least}")


def check_choice(config: Any, name: str, choices: Sequence[str]) -> None:
    """Refuse a configuration in which this is none of the choices.

    Raises:
        ValueError: for such a value; lists the choices.
    """
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")
