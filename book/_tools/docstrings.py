"""A small Sphinx extension: our docstrings are plain text, and Sphinx reads reStructuredText.

Between the two stand single backticks, which here mean code, and the signs `_`, `*` and `|` of a
formula such as e_+, which must not open a link or an emphasis.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"(``.+?``|:[\w:]+:`[^`]+`|`[^`]+`(?!_))")


def as_restructured_text(line: str) -> str:
    """One line of a docstring, with code as literals and the other signs as themselves."""
    parts = CODE.split(line)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"(?<=\w)_(?!\w)|(?<!^)\*(?!\*)|\|", r"\\\g<0>", part)
        elif not part.startswith(("``", ":")):
            parts[i] = f"`{part}`"
    return "".join(parts)


def process(
    app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]
) -> None:
    literal = -1  # the indent of the line that opened a literal block, or -1 outside of one
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal >= 0 and line.strip() and indent <= literal:
            literal = -1
        if literal < 0 and not line.lstrip().startswith((">>>", "...", "* ", "- ", "..")):
            lines[i] = as_restructured_text(line)
        if literal < 0 and line.rstrip().endswith("::"):
            literal = indent


def skip(
    app: Sphinx, what: str, name: str, item: object, skipped: bool, options: object
) -> bool | None:
    """Leave out the fields of a named tuple: all there is to say of them is their number."""
    return True if type(item).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
