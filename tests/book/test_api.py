"""The library's pages show every module that a page of the book may import."""

import re
from pathlib import Path

from pages import ROOT

# `cli` is shown by its own --help; `checks` only words the error messages of the rules.
LEFT_OUT = {"metarl_lib.cli", "metarl_lib.cli_run", "metarl_lib.rules.checks"}


def modules(root: Path) -> set[str]:
    """Every module with code of its own; a folder's `__init__` only hands names on."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in (root / "metarl_lib").rglob("*.py")
        if not path.stem.startswith("_")
    }


def shown(root: Path) -> list[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in (root / "book/api").glob("*.md"))
    return re.findall(r"^\.\. automodule:: *(\S+)", text, re.MULTILINE)


def test_every_module_is_shown_once() -> None:
    assert sorted(shown(ROOT)) == sorted(modules(ROOT) - LEFT_OUT)


def test_a_forgotten_module_is_found(tmp_path: Path) -> None:
    for folder in ("metarl_lib", "book/api"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("runs", "plots", "__init__"):
        (tmp_path / "metarl_lib" / f"{name}.py").touch()
    (tmp_path / "book/api/index.md").write_text(".. automodule:: metarl_lib.runs\n")
    assert modules(tmp_path) - set(shown(tmp_path)) == {"metarl_lib.plots"}
