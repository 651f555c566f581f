"""Who may import whom in the library, and how long a file may be. Read from the syntax tree."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "metarl_lib"
LONGEST = 350

SCIENCE = {"rules", "datasets", "envs", "cores", "algos", "oracles", "experiments"}
GROUND = {"rules", "datasets", "cores", "oracles"}
SERVICE = {
    "files",
    "folder",
    "metrics",
    "provenance",
    "runs",
    "report",
    "publishing",
    "plots",
    "figures",
}

# Floor -> the floors below it that it may see. Every module may see its own floor.
MAY_SEE: dict[str, set[str]] = {
    **{floor: set() for floor in GROUND},
    **dict.fromkeys(SERVICE, SERVICE),
    "envs": {"datasets", "rules"},
    "algos": {"envs", "cores", "rules", "datasets"},
    "experiments": (SCIENCE | SERVICE) - {"experiments"},
    "execution": SERVICE | {"experiments"},
    "jobs": SERVICE | {"experiments"},
    "sweeps": SERVICE | {"experiments", "execution", "jobs"},
    "notebook": SCIENCE | SERVICE,
    "cli_run": SCIENCE | SERVICE | {"execution", "jobs", "sweeps"},
    "doctor": SERVICE,
    "cli": SCIENCE | SERVICE | {"cli_run", "doctor"},
    "__init__": SCIENCE,
}
# Of a floor seen from `algos`, only this module.
ONLY = {("algos", "envs"): "metarl_lib.envs.base", ("algos", "cores"): "metarl_lib.cores.base"}


def imported(source: str, module: str, is_package: bool = False) -> list[str]:
    """The modules of the library that a source imports, relative imports resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{origin}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "metarl_lib" and "." in name]


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is against the rules in one module, each as a sentence."""
    parts = module.split(".")
    floor = parts[1] if len(parts) > 1 else "__init__"
    found = []
    for name in imported(source, module, is_package):
        seen = name.split(".")[1]
        if seen not in MAY_SEE or seen == floor:
            continue
        only = ONLY.get((floor, seen))
        if seen not in MAY_SEE.get(floor, set()):
            found.append(f"{module} imports {name}: {floor} must not see {seen}")
        elif only and not (name == only or name.startswith(f"{only}.")):
            found.append(f"{module} imports {name}: of {seen} it may see only {only}")
    return found


def files() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_import_runs_upward() -> None:
    found = []
    for path in files():
        package = path.name == "__init__.py"
        found += wrong_imports(path.read_text(encoding="utf-8"), module_name(path), package)
    assert not found, "\n".join(found)


def test_every_floor_is_known() -> None:
    top = {module_name(path).split(".")[1] for path in files() if path.parent != LIBRARY}
    top |= {path.stem for path in LIBRARY.glob("*.py")}
    assert top <= set(MAY_SEE), f"say what these may import: {sorted(top - set(MAY_SEE))}"


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    long = [f"{module_name(path)}: {n} lines" for path, n in lengths.items() if n > LONGEST]
    assert not long, "\n".join(long)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metarl_lib.rules.gradient", "from metarl_lib.datasets import digits"),
        ("metarl_lib.rules.gradient", "from ..datasets.digits import load"),
        ("metarl_lib.rules.gradient", "def f():\n    import metarl_lib.experiments.base"),
        ("metarl_lib.envs.maze", "from metarl_lib import cores"),
        ("metarl_lib.algos.ppo", "from metarl_lib.envs.maze import Maze"),
        ("metarl_lib.algos.ppo", "from metarl_lib.cores import GRU"),
        ("metarl_lib.algos.ppo", "from metarl_lib.report import interval"),
        ("metarl_lib.report", "from metarl_lib.rules import sgd"),
        ("metarl_lib.experiments.base", "from metarl_lib import cli"),
        ("metarl_lib.oracles.maze", "import metarl_lib.envs.maze as maze"),
    ],
)
def test_the_checker_finds(module: str, source: str) -> None:
    assert wrong_imports(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metarl_lib.algos.ppo", "from metarl_lib.envs.base import Env"),
        ("metarl_lib.algos.ppo", "from metarl_lib.cores import base"),
        ("metarl_lib.rules.gradient", "from metarl_lib.rules.network import Network"),
        ("metarl_lib.experiments.digits", "from metarl_lib import plots, runs\nimport torch"),
        ("metarl_lib.cli", "from metarl_lib.experiments import base"),
    ],
)
def test_the_checker_allows(module: str, source: str) -> None:
    assert not wrong_imports(source, module)
