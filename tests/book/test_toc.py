"""The table of contents lists every page, and every entry is a page."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pages
import yaml
from pages import ROOT


def entries(node: object) -> Iterator[str]:
    """Every `root` and `file` in a table of contents."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from entries(value)
    elif isinstance(node, list):
        for item in node:
            yield from entries(item)


def mismatches(toc: dict, root: Path) -> list[str]:
    listed = list(entries(toc))
    there = {path.relative_to(root).with_suffix("").as_posix() for path in pages.text_pages(root)}
    found = [f"{name} is listed, but there is no such page" for name in listed if name not in there]
    found += [f"{name} is a page that is not listed" for name in sorted(there - set(listed))]
    found += [f"{name} is listed {n} times" for name, n in Counter(listed).items() if n > 1]
    return found


def test_the_table_of_contents_is_complete() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert mismatches(toc, ROOT) == []


def test_mismatches_are_found(tmp_path: Path) -> None:
    (tmp_path / "book" / "api").mkdir(parents=True)
    for name in ("index", "api/index", "forgotten"):
        (tmp_path / "book" / f"{name}.md").write_text("# Title\n", encoding="utf-8")
    chapters = [{"file": "book/api/index"}, {"file": "book/gone"}, {"file": "book/api/index"}]
    toc = {"root": "book/index", "parts": [{"caption": "One", "chapters": chapters}]}
    found = mismatches(toc, tmp_path)
    assert len(found) == 3
    assert "book/gone" in found[0]
    assert "book/forgotten" in found[1]
    assert "2 times" in found[2]
