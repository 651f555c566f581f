"""What is installed, what this machine can do, and what each missing part leaves out."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

import torch

from metarl_lib import __version__
from metarl_lib.report import results_folder

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


class Extra(NamedTuple):
    """The modules that an extra brings, and what does not work without it."""

    modules: tuple[str, ...]
    without: str


EXTRAS = {
    "book": Extra(
        ("jupyter_book", "jupytext", "ipykernel", "sphinx_proof", "sphinx_exercise",
         "sphinxcontrib.bibtex", "sphinx-mathjax-offline"),
        "the book cannot be built, nor its notebooks opened",
    ),
    "test": Extra(
        ("pytest", "xdist", "nbmake", "beartype", "bs4", "playwright", "axe_playwright_python",
         "hatchling", "ruff", "mypy", "codespell_lib", "pre_commit"),
        "`make test` and `make lint` do not run",
    ),
    "mujoco": Extra(
        ("mujoco", "metaworld"),
        "no locomotion and no robot arm: ant_dir, cheetah_*, ml1_*, ml10, pearl_robots",
    ),
    "ray": Extra(("ray",), "no `metarl sweep --backend ray`; sweeps stay on this machine"),
    "atari": Extra(("ale_py",), "no games of Atari: the experiment atari"),
    "bench": Extra(
        ("torchopt", "higher", "jax", "envpool"), "benchmarks show no numbers of the peers missing"
    ),
}  # fmt: skip


def examine() -> tuple[list[str], bool]:
    """Lines about versions, device, threads, extras, browser and results; whether all is there.

    Returns:
        The lines, and False where a package is missing that the library cannot do without.
    """
    packages, complete = _packages()
    return [*_machine(), *packages, *_optional(), *_results()], complete


def _machine() -> Iterator[str]:
    yield f"metarl    {__version__}"
    yield f"python    {platform.python_version()}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    yield f"machine   {platform.machine()}, {os.cpu_count()} CPUs, GPU: {gpu}"
    yield f"threads   {torch.get_num_threads()} for torch; runs use the CPU, a sweep all CPUs"
    yield f"disk      {shutil.disk_usage('.').free / 2**30:.0f} GiB free here"


def _packages() -> tuple[list[str], bool]:
    """What the library needs, in its version."""
    try:
        requirements = metadata.requires("metarl_lib") or []
    except metadata.PackageNotFoundError:
        return ["metarl_lib            MISSING: pip install -e . in the checkout"], False
    lines, complete = [], True
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        name = requirement.split(";")[0].strip()
        for separator in "<>=!~ [(":
            name = name.split(separator)[0]
        try:
            lines.append(f"{name:<22}{metadata.version(name)}")
        except metadata.PackageNotFoundError:
            complete = False
            lines.append(f"{name:<22}MISSING: pip install {name}")
    return lines, complete


def _optional() -> Iterator[str]:
    """Each extra: its versions, or what is missing, what that leaves out, and the fix."""
    distributions = metadata.packages_distributions()
    for name, (modules, without) in EXTRAS.items():
        absent = [module for module in modules if not _there(module)]
        if absent:
            fix = f"pip install 'metarl_lib[{name}]'"
            yield f"extra {name:<8}missing {', '.join(absent)}: {fix}; without it {without}"
            continue
        known = [distributions.get(module, [module])[0] for module in modules]
        yield f"extra {name:<8}" + ", ".join(f"{d} {_version(d)}" for d in known)
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    without = "none of " + ", ".join(BROWSERS) + ": the tests in a browser are skipped"
    yield f"browser   {found or without}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "installed"


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False


def _results() -> Iterator[str]:
    published = sorted(path.parent.name for path in results_folder().glob("*/summary.json"))
    yield f"results   {', '.join(published) or 'none published'}"
