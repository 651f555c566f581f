"""The figure that a reader steps through: whole, self-contained, usable without a mouse."""

import json
import re

import pytest
from bs4 import BeautifulSoup

from metarl_lib.figures import stepper

STEP = {
    "position": -2,
    "things": [{"cell": 0, "value": 1.0, "gain": None}],
    "reward": 0.0,
    "presentation": 1,
    "right": 0.9,
    "action": 1,
}
DATA = {
    "n": 2,
    "steps": [STEP, STEP | {"position": -1}],
    "start": [0, 1000, -500, 0],
    "start_unit": 0.01,
    "changes": [[1, 2, 3, 4], [0, 0, 0, -1000]],
    "unit": 0.002,
}


@pytest.fixture(scope="module")
def page() -> BeautifulSoup:
    return BeautifulSoup(stepper(DATA), "html.parser")


def test_the_data_stand_in_the_page_unchanged(page: BeautifulSoup) -> None:
    found = re.search(r"const data = (.*);\n", page.script.string)
    assert found
    assert json.loads(found.group(1)) == DATA


def test_it_loads_nothing(page: BeautifulSoup) -> None:
    assert not page.find_all(src=True)
    assert not page.find_all("link")
    assert not re.search(
        r"https?:|//\w|@import|\bimport\b|fetch\(", re.sub(r"// .*", "", str(page))
    )


def test_every_control_and_picture_has_a_name(page: BeautifulSoup) -> None:
    controls = page.find_all(["button", "input", "svg", "canvas"])
    assert len(page.find_all("button")) == 4
    assert [tag for tag in controls if not tag.get("aria-label")] == []
    assert all(tag["role"] == "img" for tag in page.find_all(["svg", "canvas"]))
    assert page.select_one("#stepper")["aria-label"]


def test_every_button_does_something(page: BeautifulSoup) -> None:
    moves = re.search(r"const moves = \{(.*?)\n  \};", page.script.string, re.DOTALL)
    assert moves
    known = set(re.findall(r"^    (\w+): ", moves.group(1), re.MULTILINE))
    assert {button["data-to"] for button in page.find_all("button")} == known


def test_it_says_in_words_what_it_shows_and_listens_to_the_arrow_keys(page: BeautifulSoup) -> None:
    assert page.find(attrs={"aria-live": "polite"})
    assert {"ArrowLeft", "ArrowRight"} <= set(re.findall(r"Arrow\w+", page.script.string))


def test_without_javascript_it_says_so(page: BeautifulSoup) -> None:
    assert page.select_one(".on").has_attr("hidden")
    assert "JavaScript" in page.select_one(".off").get_text()
