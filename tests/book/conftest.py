"""The built book, for the tests that read HTML."""

import subprocess
import sys

import build
import pytest
from pages import ROOT


@pytest.fixture(scope="session")
def book() -> build.Book:
    """The strict build in `_build/smoke`, made anew unless what it depends on is unchanged.

    Tests that use it carry the mark `xdist_group("book")`, so one worker builds it, once.
    """
    out = ROOT / "_build" / "smoke" / "html"
    found = build.built_book(out, "smoke")
    if found is None:
        command = [sys.executable, build.__file__, "--scale", "smoke", "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"the book does not build:\n{done.stdout}\n{done.stderr}", pytrace=False)
        found = build.built_book(out, "smoke")
        assert found is not None
    return found
