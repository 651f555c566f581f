"""`make` on a machine that cannot make the environment: one clear line, status 2, nothing left."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout without an environment: only what the first steps of `make` read."""
    target = tmp_path / "tree"
    (target / "book" / "_tools").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "book/_tools/bootstrap.sh"):
        shutil.copy(ROOT / name, target / name)
    return target


def shim(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def make(tree: Path, *words: str) -> tuple[int, list[str]]:
    """The exit status, and the lines of our own: `make` adds one that names its target."""
    # `make test` hands its own settings down; this one is to start afresh.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", *words],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, [line for line in lines if "***" not in line]


@pytest.mark.parametrize("target", ["book", "test", "lint"])
def test_no_python(tree: Path, target: str) -> None:
    status, lines = make(tree, target, "PYTHON=no-such-python")
    assert status == 2
    assert len(lines) == 1
    for word in ("no-such-python", "3.11", "install", "PYTHON="):
        assert word in lines[0]
    assert not (tree / ".venv").exists()


def test_python_that_does_not_run(tree: Path, tmp_path: Path) -> None:
    python = shim(tmp_path, "broken", "exit 127")
    status, lines = make(tree, "book", f"PYTHON={python}")
    assert status == 2
    assert len(lines) == 1
    assert "does not run" in lines[0]
    assert not (tree / ".venv").exists()


def test_python_too_old(tree: Path, tmp_path: Path) -> None:
    script = 'case "$2" in *print*) echo 3.9.18;; *) exit 1;; esac'
    status, lines = make(tree, "book", f"PYTHON={shim(tmp_path, 'python3.9', script)}")
    assert status == 2
    assert len(lines) == 1
    for word in ("3.9.18", "3.11", "PYTHON="):
        assert word in lines[0]
    assert not (tree / ".venv").exists()


def test_no_venv_module(tree: Path, tmp_path: Path) -> None:
    script = f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac'
    status, lines = make(tree, "test", f"PYTHON={shim(tmp_path, 'bare', script)}")
    assert status == 2
    assert len(lines) == 1
    for word in ("venv", "apt install python3-venv"):
        assert word in lines[0]
    assert not (tree / ".venv").exists()


def test_half_made_environment_is_made_anew(tree: Path, tmp_path: Path) -> None:
    (tree / ".venv" / "bin").mkdir(parents=True)
    leftover = tree / ".venv" / "leftover"
    leftover.touch()
    # The shim makes an environment whose pip refuses, so nothing is installed here.
    script = f"""
case "$1" in
-m) mkdir -p "$3/bin"; printf '#!/bin/sh\\nexit 1\\n' > "$3/bin/python"; chmod +x "$3/bin/python";;
*) exec {sys.executable} "$@";;
esac"""
    status, lines = make(tree, "book", f"PYTHON={shim(tmp_path, 'python', script)}")
    assert status == 2
    assert "pip could not install" in lines[-1]
    assert not leftover.exists()
    assert (tree / ".venv" / ".unfinished").exists()
    assert not list((tree / ".venv").glob(".book-*"))


def test_every_target_is_explained() -> None:
    done = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    for target in ("book", "test", "lint", "sync", "bench", "serve", "repo", "clean"):
        assert f"  {target} " in done.stdout
