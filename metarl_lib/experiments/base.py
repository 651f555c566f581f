"""What an experiment is: a frozen configuration, three presets, and a function that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from torch import Tensor

from metarl_lib.algos.options import check_positive as check_positive
from metarl_lib.algos.options import option as option
from metarl_lib.runs import SCALES, Row, Run

SWITCH = {"true": True, "false": False}


@dataclass(frozen=True)
class Experiment:
    """An experiment that `metarl run` knows.

    Attributes:
        name: as on the command line and in `book/_results/`.
        page: the page of the book that shows it.
        claim: what it tests, in one line.
        presets: one configuration per scale: smoke (seconds), book (minutes), full (published).
        cost: how long one seed takes at each scale on one core.
        run: does the work in a `Run` and returns rows `{variant, metric, value, budget}`.
        evaluate: recomputes the headline rows of one seed from its published tensors.
    """

    name: str
    page: str
    claim: str
    presets: Mapping[str, Any]
    cost: Mapping[str, str]
    run: Callable[[Any, Run], list[Row]]
    evaluate: Callable[[Any, int, Mapping[str, Tensor]], list[Row]]

    def config(self, scale: str, overrides: Mapping[str, Any] | None = None) -> Any:
        """The preset of a scale, with some fields replaced.

        Raises:
            ValueError: for an unknown scale or field, or a value of the wrong kind.
        """
        if scale not in SCALES:
            raise ValueError(f"scale={scale!r} is unknown: choose one of {', '.join(SCALES)}")
        preset = self.presets[scale]
        fields = {field.name for field in dataclasses.fields(preset)}
        for name in overrides or {}:
            if name not in fields:
                raise ValueError(
                    f"{self.name} has no field {name!r}: choose one of {', '.join(sorted(fields))}"
                )
        return dataclasses.replace(preset, **(overrides or {}))


def parse_field(config: Any, name: str, text: str) -> Any:
    """Turn the text of `--name text` into the kind of value that the field is declared to hold.

    Numbers and words are themselves, a switch is `true` or `false`; a tuple is written with
    commas, such as `10,30,100`, and an empty one with nothing.

    Raises:
        ValueError: when the text cannot be read as that kind.
    """
    current, kind = getattr(config, name), get_type_hints(type(config))[name]
    several = get_origin(kind) is tuple
    parts = [text]
    if several:
        kind, parts = get_args(kind)[0], text.split(",") if text else []
    try:
        values = [SWITCH[part] if kind is bool else kind(part) for part in parts]
    except (KeyError, ValueError):
        names = {int: "a whole number", float: "a number", bool: "true or false"}
        wanted = names.get(kind, kind.__name__)
        plural = f"{wanted}s separated by commas".replace("a whole ", "whole ").replace("a n", "n")
        allowed = plural if several else wanted
        raise ValueError(
            f"--{name} {text!r} cannot be read: give {allowed}, such as {_show(current)}"
        ) from None
    return tuple(values) if several else values[0]


def check_minibatch(steps: int, given: str) -> None:
    """Refuse minibatches of a single step: PPO divides by the spread of what is in them.

    Args:
        steps: of a minibatch.
        given: the fields that say how many, with their values.

    Raises:
        ValueError: names the fields.
    """
    if steps < 2:
        raise ValueError(f"{given}: a minibatch of PPO must have at least 2 steps")


def row(variant: str, metric: str, value: Tensor | float, budget: int) -> Row:
    """One result; of a tensor of any shape, the mean of its numbers."""
    number = value.mean() if isinstance(value, Tensor) else value
    return {"variant": variant, "metric": metric, "value": float(number), "budget": budget}


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
