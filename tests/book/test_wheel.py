"""The Colab rehearsal: the library from a wheel, and pages alone in an empty folder."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pages
import pytest
from nbclient import NotebookClient
from pages import ROOT

pytestmark = pytest.mark.xdist_group("wheel")

SKIPPED = {"_build", ".venv", ".git", "runs"}
ALONE = pages.numbered_pages()[:2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that nothing is left in the tree itself."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(
        ROOT, tree, ignore=lambda _, names: [n for n in names if n in SKIPPED or n[:7] == ".pytest"]
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(folder), str(tree)], check=True
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


def test_the_wheel_holds_the_library_and_the_results(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    library = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "metarl_lib").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    results = ROOT / "book" / "_results"
    published = {
        f"metarl_lib/_results/{path.relative_to(results).as_posix()}"
        for path in results.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    assert library <= names
    assert published <= names
    assert not any(name.startswith(("tests/", "book/")) for name in names)


@pytest.mark.parametrize("page", ALONE, ids=[path.stem for path in ALONE])
def test_a_page_runs_alone(
    page: Path, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the repository is beside the page, and the library comes from the wheel."""
    monkeypatch.setenv("METARL_SCALE", "smoke")
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    shutil.copy(page.with_suffix(".ipynb"), tmp_path)
    notebook = nbformat.read(tmp_path / f"{page.stem}.ipynb", as_version=4)
    asked = "import metarl_lib; print(metarl_lib.__file__)"
    notebook.cells.append(nbformat.v4.new_code_cell(asked))
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert str(installed) in notebook.cells[-1].outputs[0].text
    # What a page writes, it writes elsewhere: its folder stays as it was.
    assert [path.name for path in tmp_path.iterdir()] == [f"{page.stem}.ipynb"]
