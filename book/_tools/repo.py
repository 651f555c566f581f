"""Set the address of the repository: in pyproject.toml, and in all that is derived from it.

Derived are the edit and Colab links (`_config.yml`), the setup cell of every page with its
notebook, CITATION.cff, and the links in README.md and CONTRIBUTING.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import sync
from pages import ROOT, repository_url, text_pages

SHAPE = re.compile(r"https://github\.com/(?P<slug>[A-Za-z0-9-]+/[A-Za-z0-9._-]*[A-Za-z0-9_-])")


def clean(url: str) -> str:
    """The address without a trailing slash or `.git`; ValueError if it is of another shape."""
    short = url.strip().removesuffix("/").removesuffix(".git")
    if not SHAPE.fullmatch(short):
        raise ValueError(
            f"'{url}' is not the address of a repository; "
            "write: make repo URL=https://github.com/owner/name"
        )
    return short


def replace(text: str, old: str, new: str) -> str:
    """`text` with one repository's address for another's, in plain and in Colab links."""
    before, after = (url.removeprefix("https://github.com/") for url in (old, new))
    pattern = rf"(github(?:\.com)?/){re.escape(before)}(?![A-Za-z0-9_-]|\.(?!git\b)[A-Za-z0-9])"
    return re.sub(pattern, lambda match: match.group(1) + after, text)


def set_url(url: str, root: Path = ROOT) -> list[Path]:
    """Write the new address wherever the old one stands; return the files that changed."""
    old = repository_url(root)
    names = ["pyproject.toml", "_config.yml", "CITATION.cff", "README.md", "CONTRIBUTING.md"]
    changed = []
    for path in [root / name for name in names] + text_pages(root):
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        new = replace(text, old, url)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    try:
        url = clean(args[0] if args else "")
    except ValueError as error:
        print(f"make: {error}", file=sys.stderr)
        return 2
    for path in set_url(url):
        print(f"wrote {path.relative_to(ROOT)}")
    return sync.main([])


if __name__ == "__main__":
    sys.exit(main())
