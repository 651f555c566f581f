"""A page that the build has executed, strictly and from the same sources, is not executed again."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the notebooks whose pages are in a fresh book at the scale of the tests."""
    import build

    scale = os.environ.get("METARL_SCALE", "book")
    if not build.built_book(ROOT / "_build" / scale / "html", scale):
        return
    executed = {page.with_suffix(".ipynb") for page in build.notebook_pages()}
    for item in items:
        if item.path in executed:
            done = f"executed by the build at scale {scale}, from the same sources"
            item.add_marker(pytest.mark.skip(reason=done))
