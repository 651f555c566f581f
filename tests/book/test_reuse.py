"""Pages that a fresh build has executed are skipped, and only they."""

import importlib.util
from types import SimpleNamespace

import build
import pytest
from pages import ROOT, notebook_pages

SPEC = importlib.util.spec_from_file_location("book_conftest", ROOT / "book" / "conftest.py")


@pytest.mark.parametrize(("scale", "fresh"), [("smoke", True), ("smoke", False), ("full", True)])
def test_pages_of_a_fresh_build_are_skipped(monkeypatch, scale, fresh) -> None:
    asked = []

    def built_book(out, name):
        asked.append((out, name))
        return fresh or None

    monkeypatch.setenv("METARL_SCALE", scale)
    monkeypatch.setattr(build, "built_book", built_book)
    hooks = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(hooks)

    pages = [page.with_suffix(".ipynb") for page in notebook_pages()]
    others = [ROOT / "tests" / "test_runs.py", ROOT / "book" / "other.ipynb"]
    marks: dict = {path: [] for path in [*pages, *others]}
    hooks.pytest_collection_modifyitems(
        [SimpleNamespace(path=path, add_marker=marks[path].append) for path in marks]
    )
    assert len(pages) > 20
    assert asked == [(ROOT / "_build" / scale / "html", scale)]
    assert [len(marks[page]) for page in pages] == [int(fresh)] * len(pages)
    assert not any(marks[path] for path in others)
