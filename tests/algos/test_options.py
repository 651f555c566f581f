"""Fields of a configuration: their help, and one line for each bad value."""

import dataclasses
import math
from types import SimpleNamespace

import pytest

from metarl_lib.algos import options


def test_an_option_has_a_default_and_a_help() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        rows: int = options.option(3, "environments side by side")

    (field,) = dataclasses.fields(Config)
    assert Config().rows == 3
    assert field.metadata["help"] == "environments side by side"


GOOD = [
    (options.check_positive, (1e-9, 1, (1, 2.5))),
    (options.check_not_negative, (0, 0.0, 3)),
    (options.check_share, (0, 0.5, 1)),
    (options.check_whole, (1, 70_000)),
]
BAD = [
    (options.check_positive, 0, "x=0: must be greater than 0 and finite"),
    (options.check_positive, math.inf, "x=inf: must be greater than 0 and finite"),
    (options.check_positive, math.nan, "x=nan: must be greater than 0 and finite"),
    (options.check_positive, (1, -2), "x=1,-2: must be greater than 0 and finite"),
    (options.check_positive, (), "x=: must be greater than 0 and finite"),
    (options.check_not_negative, -0.5, "x=-0.5: must be 0 or more, and finite"),
    (options.check_not_negative, math.inf, "x=inf: must be 0 or more, and finite"),
    (options.check_share, 1.5, "x=1.5: must lie between 0 and 1"),
    (options.check_share, math.nan, "x=nan: must lie between 0 and 1"),
    (options.check_whole, 0, "x=0: must be a whole number >= 1"),
    (options.check_whole, 2.0, "x=2.0: must be a whole number >= 1"),
]


@pytest.mark.parametrize(("check", "values"), GOOD)
def test_what_is_allowed_passes(check, values) -> None:
    for value in values:
        check(SimpleNamespace(x=value), "x")


@pytest.mark.parametrize(("check", "value", "line"), BAD)
def test_a_bad_value_is_one_line(check, value, line) -> None:
    """It is found among good ones, and none but the named fields are looked at."""
    with pytest.raises(ValueError) as error:
        check(SimpleNamespace(good=1, x=value), "good", "x")
    assert str(error.value) == line
    check(SimpleNamespace(good=1, x=value), "good")


def test_a_choice_must_be_known() -> None:
    config = SimpleNamespace(kind="c")
    options.check_choice(config, "kind", ("b", "c"))
    with pytest.raises(ValueError, match=r"^kind='c' is unknown: choose one of a, b$"):
        options.check_choice(config, "kind", ("a", "b"))
