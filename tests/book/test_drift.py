"""Each page and the notebook beside it say the same, and neither holds what is not for readers."""

import re
import subprocess
from pathlib import Path

import nbformat
import pages
import pytest
import sync
from myst_nb.core.read import read_myst_markdown_notebook
from pages import ROOT

PAGES = pages.notebook_pages()
KEPT = sync.KEPT_CELL_METADATA
MACHINE_PATH = re.compile(r"""(?<![\w.~/-])(/work|/home|/root|/tmp|/Users)/[\w.]|\b[A-Z]:\\\w""")


def each_page() -> pytest.MarkDecorator:
    names = [str(path.relative_to(ROOT)) for path in PAGES]
    return pytest.mark.parametrize("page", PAGES, ids=names)


def differences(text: str, notebook: nbformat.NotebookNode) -> list[str]:
    """Where a notebook departs from a page, as MyST-NB, not jupytext, reads the page."""
    page = read_myst_markdown_notebook(text)
    found = []
    if len(page.cells) != len(notebook.cells):
        found.append(f"{len(page.cells)} cells on the page, {len(notebook.cells)} beside it")
    for i, (ours, theirs) in enumerate(zip(page.cells, notebook.cells, strict=False)):
        if ours.cell_type != theirs.cell_type:
            found.append(f"cell {i}: {ours.cell_type} became {theirs.cell_type}")
        if ours.source.strip() != theirs.source.strip():
            found.append(f"cell {i}: the source differs")
        if ours.cell_type == "code":
            pairs = [(ours.metadata.get(key), theirs.metadata.get(key)) for key in KEPT]
            if any(mine != other for mine, other in pairs):
                found.append(f"cell {i}: tags or figure options differ")
    return found


def residue(notebook: nbformat.NotebookNode) -> list[str]:
    """What a notebook in the repository must not hold."""
    found = []
    name = notebook.metadata.get("kernelspec", {}).get("name")
    if name != "python3":
        found.append(f"its kernel is {name}, not python3")
    for i, cell in enumerate(notebook.cells):
        if cell.get("outputs"):
            found.append(f"cell {i} has outputs")
        if cell.get("execution_count") is not None:
            found.append(f"cell {i} has an execution count")
    return found


def first_code_cell(text: str) -> tuple[str, list[str]]:
    for cell in read_myst_markdown_notebook(text).cells:
        if cell.cell_type == "code":
            return cell.source, cell.metadata.get("tags", [])
    return "", []


def machine_paths(text: str) -> list[str]:
    """The lines that name a place on somebody's machine."""
    return [line.strip() for line in text.splitlines() if MACHINE_PATH.search(line)]


def tracked_text() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's own files")
    suffixes = {".md", ".py", ".ipynb", ".toml", ".yml", ".yaml", ".txt", ".json", ".sh", ".css"}
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [
        path
        for path in paths
        if (path.suffix in suffixes or path.name == "Makefile")
        and path.exists()
        and path != Path(__file__)
    ]


@each_page()
def test_the_notebook_is_the_page(page: Path) -> None:
    sibling = page.with_suffix(".ipynb")
    assert sibling.exists(), "run `make sync`"
    notebook = nbformat.read(sibling, as_version=4)
    nbformat.validate(notebook)
    text = page.read_text(encoding="utf-8")
    assert differences(text, notebook) == []
    assert residue(notebook) == []
    assert sync.to_notebook(text) == sibling.read_text(encoding="utf-8"), "run `make sync`"


@each_page()
def test_the_setup_cell_is_the_same_everywhere(page: Path) -> None:
    source, tags = first_code_cell(page.read_text(encoding="utf-8"))
    assert source == pages.setup_cell(pages.repository_url())
    assert "hide-input" in tags


def test_every_notebook_has_its_page() -> None:
    assert sync.orphans() == []


def test_no_machine_paths() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in tracked_text()
        for line in machine_paths(path.read_text(encoding="utf-8"))
    ]
    assert found == []


PAGE = """---
kernelspec:
  display_name: Python 3
  name: python3
---

# A page

```{code-cell} ipython3
:tags: [hide-input]

1 + 1
```
"""


def test_a_notebook_is_written_the_same_twice() -> None:
    assert sync.to_notebook(PAGE) == sync.to_notebook(PAGE)
    ids = [cell.id for cell in nbformat.reads(sync.to_notebook(PAGE * 1), 4).cells]
    longer = nbformat.reads(sync.to_notebook(PAGE + "\nMore.\n\n```{code-cell}\n1 + 1\n```\n"), 4)
    assert [cell.id for cell in longer.cells][: len(ids)] == ids
    assert len({cell.id for cell in longer.cells}) == len(longer.cells)


@pytest.mark.parametrize(
    "changed",
    [
        PAGE.replace("1 + 1", "1 + 2"),
        PAGE.replace("A page", "Another page"),
        PAGE.replace("hide-input", "hide-cell"),
        PAGE + "\nMore.\n",
    ],
)
def test_a_difference_is_found(changed: str, tmp_path: Path) -> None:
    assert differences(changed, nbformat.reads(sync.to_notebook(PAGE), 4))
    # The tool finds it too, and mends it.
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "page.md").write_text(PAGE, encoding="utf-8")
    assert sync.main(["--root", str(tmp_path)]) == 0
    assert sync.main(["--root", str(tmp_path), "--check"]) == 0
    (tmp_path / "book" / "page.md").write_text(changed, encoding="utf-8")
    assert sync.main(["--root", str(tmp_path), "--check"]) == 1
    assert sync.main(["--root", str(tmp_path)]) == 0
    assert sync.main(["--root", str(tmp_path), "--check"]) == 0


def test_residue_is_found() -> None:
    notebook = nbformat.reads(sync.to_notebook(PAGE.replace("name: python3", "name: mine")), 4)
    notebook.cells[1].execution_count = 1
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    assert len(residue(notebook)) == 3


def test_an_orphan_is_found(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "left.ipynb").write_text("{}", encoding="utf-8")
    assert sync.main(["--root", str(tmp_path), "--check"]) == 1


def test_a_machine_path_is_found() -> None:
    places = ["open('/ho" + "me/me/x.npz')", "see /tm" + "p/x", "C:" + "\\Users"]
    assert [machine_paths(place) for place in places] == [[place] for place in places]
    assert machine_paths("https://example.org/home/x and a/tmp/b and ~/work") == []
