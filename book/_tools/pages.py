"""What the tools and the tests of the book share: where the pages are and how they are read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SETUP_CELL = Path(__file__).with_name("setup_cell.txt")


def front_matter(text: str) -> dict:
    """The YAML between the two `---` lines that a page opens with, or nothing."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return (yaml.safe_load(match.group(1)) or {}) if match else {}


def text_pages(root: Path = ROOT) -> list[Path]:
    """Every Markdown file of the book, in a fixed order; folders that open with `_` hold none."""
    book = root / "book"
    return sorted(
        path
        for path in book.rglob("*.md")
        if not any(part.startswith(("_", ".")) for part in path.relative_to(book).parts)
    )


def notebook_pages(root: Path = ROOT) -> list[Path]:
    """The pages that hold code: those whose front matter names a kernel."""
    return [
        path
        for path in text_pages(root)
        if "kernelspec" in front_matter(path.read_text(encoding="utf-8"))
    ]


def numbered_pages(root: Path = ROOT) -> list[Path]:
    """The chapters proper: `book/<part>/NN_slug.md`."""
    return [path for path in text_pages(root) if re.match(r"\d\d_", path.name)]


def repository_url(root: Path = ROOT) -> str:
    """The address of the repository, from the one place where it is set."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["urls"]["Repository"]


def setup_cell(url: str) -> str:
    """The first code cell of every page."""
    return SETUP_CELL.read_text(encoding="utf-8").rstrip().replace("{url}", url)
