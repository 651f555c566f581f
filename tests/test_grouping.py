"""Tests that share what their module makes go to one worker of pytest-xdist."""

import pytest

THINGS = ["one", "other"]


@pytest.fixture(scope="module")
def plain() -> str:
    return "plain"


@pytest.fixture(scope="module", params=THINGS)
def thing(request, plain) -> str:
    return request.param


def group(request) -> str | None:
    mark = request.node.get_closest_marker("xdist_group")
    return mark and mark.args[0]


@pytest.mark.parametrize("case", [0, 1])
def test_each_case_of_what_is_made_has_a_group_of_its_own(request, thing, case) -> None:
    assert group(request) == f"test_grouping-{THINGS.index(thing)}"


def test_what_is_made_once_has_the_group_of_its_module(request, plain) -> None:
    assert group(request) == "test_grouping"


@pytest.mark.parametrize("case", [0, 1])
def test_who_shares_nothing_is_dealt_out_alone(request, tmp_path, case) -> None:
    assert group(request) is None


@pytest.mark.xdist_group("own")
def test_a_group_that_is_given_stays(request, thing) -> None:
    assert group(request) == "own"


def test_the_group_is_known_when_tests_are_dealt_out(request, plain) -> None:
    """Where there are workers, pytest-xdist writes it behind the name, where it looks it up."""
    dealt = hasattr(request.config, "workerinput")
    assert request.node.nodeid.endswith("@test_grouping") == dealt
