"""The built book, for the tests that read HTML."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import build
import pytest
from pages import ROOT


@dataclass(frozen=True)
class Book:
    """A book built at smoke scale: its HTML, and the seconds each page took to execute."""

    html: Path
    seconds: dict[str, float]


@pytest.fixture(scope="session")
def book() -> Book:
    """The strict build in `_build/smoke`, made anew unless what it depends on is unchanged.

    Tests that use it carry the mark `xdist_group("book")`, so one worker builds it, once.
    """
    folder = ROOT / "_build" / "smoke"
    state = folder / "state.json"
    if not state.exists() or json.loads(state.read_text())["key"] != build.book_key("smoke"):
        command = [sys.executable, build.__file__, "--scale", "smoke"]
        done = subprocess.run(
            [*command, "--out", str(folder / "html")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"the book does not build:\n{done.stdout}\n{done.stderr}", pytrace=False)
    return Book(folder / "html", json.loads(state.read_text())["seconds"])
