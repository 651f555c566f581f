"""The Colab rehearsal: the library from a wheel, and pages alone in an empty folder.

The environment has what the wheel asks for, a kernel, and nothing else. To download all that each
time would take minutes; the packages are links to those that are installed here.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pages import ROOT

pytestmark = pytest.mark.xdist_group("wheel")

SKIPPED = {"_build", ".venv", ".git", "runs"}
# One page of theory with a live run, one with published results, one that reads all of them.
ALONE = [
    ROOT / "book" / "learning_rules" / "01_gradient_and_perturbation.md",
    ROOT / "book" / "memory" / "02_two_step.md",
    ROOT / "book" / "claims.md",
]
KERNEL = "alone"
ELSEWHERE = ["jupyter_book", "sphinx", "myst_nb", "pytest", "mujoco", "ray", "ale_py"]


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


def runtime(start: Iterable[str]) -> dict[str, Distribution]:
    """The installed distributions that these requirements lead to, by their names."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(line) for line in start]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        of = distribution(requirement.name)
        found[canonicalize_name(requirement.name)] = of
        for line in of.requires or []:
            further = Requirement(line)
            extras = {"", *requirement.extras}
            marker = further.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(further)
    return found


def needed(wheel: Path) -> list[str]:
    """What the wheel asks for without any extra."""
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = [p for p in zipfile.Path(archive).iterdir() if p.name.endswith(".dist-info")]
        lines = PathDistribution(folder).requires or []
    return [line for line in lines if "extra ==" not in line]


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, what it needs, and a kernel of the name `alone`."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(home)}))
    for of in runtime([*needed(wheel), "ipykernel"]).values():
        for name in {file.parts[0] for file in of.files or []} - {"..", "bin", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(of.locate_file(name))
    python = str(home / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True)
    kernel = home / "share" / "jupyter" / "kernels" / KERNEL / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": KERNEL, "language": "python"}
    kernel.write_text(json.dumps(spec), encoding="utf-8")
    return home


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


def test_the_environment_holds_nothing_else(installed: Path) -> None:
    asked = f"""
import importlib.util, metarl_lib
print(metarl_lib.__file__)
print([name for name in {ELSEWHERE} if importlib.util.find_spec(name)])
"""
    python = str(installed / "bin" / "python")
    done = subprocess.run([python, "-I", "-c", asked], capture_output=True, text=True, check=True)
    library, strangers = done.stdout.splitlines()
    assert Path(library).is_relative_to(installed)
    assert strangers == "[]"


@pytest.mark.parametrize("page", ALONE, ids=[path.stem for path in ALONE])
def test_a_page_runs_alone(
    page: Path, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the repository is beside the page, and the library comes from the wheel."""
    monkeypatch.setenv("METARL_SCALE", "smoke")
    monkeypatch.setenv("JUPYTER_PATH", str(installed / "share" / "jupyter"))
    for name in ("MPLBACKEND", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(page.with_suffix(".ipynb"), tmp_path)
    notebook = nbformat.read(tmp_path / f"{page.stem}.ipynb", as_version=4)
    asked = "import metarl_lib; print(metarl_lib.__file__)"
    notebook.cells.append(nbformat.v4.new_code_cell(asked))
    NotebookClient(
        notebook, timeout=120, kernel_name=KERNEL, resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert str(installed) in notebook.cells[-1].outputs[0].text
    # What a page writes, it writes elsewhere: its folder stays as it was.
    assert [path.name for path in tmp_path.iterdir()] == [f"{page.stem}.ipynb"]
