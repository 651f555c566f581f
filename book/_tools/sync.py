"""Write the notebook beside each page: one way, from the Markdown to the `.ipynb`.

The notebooks hold no outputs, and a cell's id is a hash of what it holds, so an unchanged page
gives the same bytes again. `--check` writes nothing, lists the pages whose notebook differs, and
exits 1 if there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat
from pages import ROOT, notebook_pages

KEPT_CELL_METADATA = ("tags", "mystnb", "nbmake")
KEPT_METADATA = ("kernelspec", "execution")


def to_notebook(text: str) -> str:
    """The notebook, as JSON, of a page in MyST Markdown."""
    page = jupytext.reads(text, fmt="md:myst")
    metadata = {key: page.metadata[key] for key in KEPT_METADATA if key in page.metadata}
    metadata["language_info"] = {"name": "python"}
    seen: dict[str, int] = {}
    cells = []
    for cell in page.cells:
        content = f"{cell.cell_type}\n{cell.source}"
        seen[content] = seen.get(content, 0) + 1
        name = hashlib.sha256(f"{seen[content]}\n{content}".encode()).hexdigest()[:12]
        kept = {key: cell.metadata[key] for key in KEPT_CELL_METADATA if key in cell.metadata}
        new = nbformat.from_dict(
            {"cell_type": cell.cell_type, "id": name, "metadata": kept, "source": cell.source}
        )
        if cell.cell_type == "code":
            new.update(execution_count=None, outputs=[])
        cells.append(new)
    notebook = nbformat.from_dict(
        {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    )
    nbformat.validate(notebook)
    return nbformat.writes(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def drifted(root: Path = ROOT) -> list[Path]:
    """The pages whose notebook is missing or differs from what `to_notebook` gives."""
    found = []
    for page in notebook_pages(root):
        sibling = page.with_suffix(".ipynb")
        wanted = to_notebook(page.read_text(encoding="utf-8"))
        if not sibling.exists() or sibling.read_text(encoding="utf-8") != wanted:
            found.append(page)
    return found


def orphans(root: Path = ROOT) -> list[Path]:
    """Notebooks in the book without a page that holds code."""
    pages = {page.with_suffix(".ipynb") for page in notebook_pages(root)}
    return [
        path
        for path in sorted((root / "book").rglob("*.ipynb"))
        if path not in pages and ".ipynb_checkpoints" not in path.parts
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only list pages that differ")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    changed, left = drifted(args.root), orphans(args.root)
    for page in changed:
        if args.check:
            print(f"{page.relative_to(args.root)}: its notebook differs; run `make sync`")
        else:
            text = to_notebook(page.read_text(encoding="utf-8"))
            page.with_suffix(".ipynb").write_text(text, encoding="utf-8")
            print(f"wrote {page.with_suffix('.ipynb').relative_to(args.root)}")
    for path in left:
        print(f"{path.relative_to(args.root)}: no page belongs to this notebook; remove it")
    if not (changed or left):
        print(f"{len(notebook_pages(args.root))} pages and their notebooks agree")
    return 1 if left or (args.check and changed) else 0


if __name__ == "__main__":
    sys.exit(main())
