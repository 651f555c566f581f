"""The figure that a reader steps through: whole, self-contained, usable without a mouse."""

import json
import re

import pytest
from bs4 import BeautifulSoup

from metarl_lib.figures import stepper
from metarl_lib.figures.stepper import WORLDS

HARLOW = {
    "position": -2,
    "things": [{"cell": 0, "value": 1.0, "gain": None}],
    "reward": 0.0,
    "presentation": 1,
    "policy": [0.1, 0.9],
    "action": 1,
}
MAZE = {"cell": 3, "reward": 10.0, "policy": [0.1, 0.2, 0.3, 0.4], "action": 2}
ROBOT = {
    "at": [3, 50], "limbs": [[0, 0, 10, 20], [5, 5, 5, 5]], "velocity": 0.5, "reward": -0.1,
    "action": [0.5, -1.0],
}  # fmt: skip
WEIGHTS = {
    "n": 2,
    "start": [0, 1000, -500, 0],
    "start_unit": 0.01,
    "changes": [[1, 2, 3, 4], [0, 0, 0, -1000]],
    "unit": 0.002,
}
DATA = {
    "harlow": WEIGHTS | {"steps": [HARLOW, HARLOW | {"position": -1}]},
    "maze": WEIGHTS
    | {"size": 2, "open": "1101", "target": 0, "steps": [MAZE, MAZE | {"reward": 0.0}]},
    "robot": WEIGHTS
    | {
        "actuators": ["hip", "ankle"],
        "above": True,
        "tilt": 0.7,
        "radii": [8, 25],
        "goal": [1.0, 0.0],
        "steps": [ROBOT, ROBOT | {"at": [9, 50]}],
    },
}


@pytest.fixture(scope="module", params=DATA)
def world(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def page(world: str) -> BeautifulSoup:
    return BeautifulSoup(stepper(DATA[world], world), "html.parser")


def test_the_data_stand_in_the_page_unchanged(page: BeautifulSoup, world: str) -> None:
    found = re.search(r"const data = (.*);\n", page.script.string)
    assert found
    assert json.loads(found.group(1)) == DATA[world]


def test_it_loads_nothing(page: BeautifulSoup) -> None:
    assert not page.find_all(src=True)
    assert not page.find_all("link")
    assert not re.search(
        r"https?:|//\w|@import|\bimport\b|fetch\(", re.sub(r"// .*", "", str(page))
    )


def test_every_control_and_picture_has_a_name(page: BeautifulSoup) -> None:
    controls = page.find_all(["button", "input", "svg", "canvas"])
    assert len(page.find_all("button")) == 5
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


def test_every_placeholder_is_filled(page: BeautifulSoup, world: str) -> None:
    assert not re.search(r"/\*[A-Z]+\*/|<!--", str(page))
    assert page.select_one("#stepper")["aria-label"].startswith(WORLDS[world])


def test_each_world_says_all_that_the_figure_asks_of_it(page: BeautifulSoup) -> None:
    """What is called on `world` is what it has: a slip would only show in a browser."""
    script = page.script.string
    asked = set(re.findall(r"\bworld\.(\w+)", script))
    body = script[script.index("const world = ") : script.index('find(".scene").setAttribute')]
    has = set(re.findall(r"^    (\w+)(?:: |\()", body, re.MULTILINE))
    assert asked <= has
