"""The Colab rehearsal: the library installed, and pages alone in an empty folder.

The environment has what the library asks for, a kernel, and nothing else. With REHEARSE_CLEAN=1,
which the workflow on GitHub sets, pip installs the tree into it as it would for a reader. To fetch
all that takes a minute or more and two gigabytes, so otherwise the library comes from its wheel,
and what it asks for is linked to what is installed here; so it is where pip finds no packages.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable, Iterator
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
PIP = [sys.executable, "-m", "pip"]
ELSEWHERE = ["jupyter_book", "sphinx", "myst_nb", "pytest", "mujoco", "ray", "ale_py"]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, so that a build leaves nothing in the tree itself."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(
        ROOT, copy, ignore=lambda _, names: [n for n in names if n in SKIPPED or n[:7] == ".pytest"]
    )
    return copy


@pytest.fixture(scope="session")
def wheel(tree: Path) -> Path:
    command = [*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tree.parent), str(tree)], check=True)
    (found,) = tree.parent.glob("*.whl")
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


def link(home: Path, wheel: Path) -> None:
    """The wheel, and links to what it needs."""
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(home)}))
    for of in runtime([*needed(wheel), "ipykernel"]).values():
        for name in {file.parts[0] for file in of.files or []} - {"..", "bin", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(of.locate_file(name))
    install = [*PIP, "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)


@pytest.fixture(scope="session")
def not_clean() -> str:
    """Why pip does not install everything anew; empty where it does."""
    if os.environ.get("REHEARSE_CLEAN") != "1":
        return "packages are linked, not fetched; REHEARSE_CLEAN=1 has pip fetch them"
    # One small package, without installing it, tells whether pip finds any.
    probe = ["install", "--dry-run", "--no-deps", "--ignore-installed", "tqdm"]
    hasty = ["--retries", "1", "--timeout", "20"]
    done = subprocess.run([*PIP, *probe, *hasty], capture_output=True, text=True, check=False)
    return "pip finds no packages here; they are linked, not fetched" if done.returncode else ""


@pytest.fixture(scope="session")
def installed(
    tree: Path, wheel: Path, not_clean: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A fresh environment with the library, what it needs, and a kernel of the name `alone`."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    python = str(home / "bin" / "python")
    if not_clean:
        link(home, wheel)
    else:
        # To compile what no page imports takes half of the time.
        install = [*PIP, "--python", python, "install", "--quiet", "--no-compile"]
        pinned = ["-c", str(ROOT / "constraints.txt")]
        subprocess.run([*install, *pinned, str(tree), "ipykernel"], check=True)
    kernel = home / "share" / "jupyter" / "kernels" / KERNEL / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": KERNEL, "language": "python"}
    kernel.write_text(json.dumps(spec), encoding="utf-8")
    yield home
    shutil.rmtree(home)  # pytest would keep it


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


def test_pip_installs_what_the_links_stand_for(
    installed: Path, wheel: Path, not_clean: str
) -> None:
    """Whoever rehearses with links has what pip would install, no less and no more."""
    if not_clean:
        pytest.skip(not_clean)
    asked = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    python = str(installed / "bin" / "python")
    done = subprocess.run([python, "-I", "-c", asked], capture_output=True, text=True, check=True)
    names = {canonicalize_name(name) for name in done.stdout.split()}
    assert names == {"metarl-lib", *runtime([*needed(wheel), "ipykernel"])}


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
