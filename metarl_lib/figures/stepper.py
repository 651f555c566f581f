"""A life to step through: what the agent does, its weights, and what changes in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WORLDS = {"harlow": "One Harlow trial", "maze": "One life in a maze"}


def stepper(data: Mapping[str, Any], world: str = "harlow") -> str:
    """The figure as HTML.

    Args:
        data: `n` units; `steps`, what happens at each: the last `reward`, the `policy`, one
            probability for each action, and the `action`; and the weights row by row, `start`
            and their `changes` at each step, as whole numbers of `start_unit` and of `unit`.
            For `"harlow"`, a step also has the `position`, the cells and values of `things`,
            and the `presentation`. For `"maze"`, data also has the `size`, the `open` cells as
            a text of 0 and 1, and the number of the `target`'s; a step has that of the agent's
            `cell`.
        world: what is drawn: `"harlow"` or `"maze"`.
    """
    page = (FOLDER / "stepper.html").read_text(encoding="utf-8")
    page = page.replace("<!--TITLE-->", WORLDS[world])
    page = page.replace("/*WORLD*/", (FOLDER / f"{world}.js").read_text(encoding="utf-8"))
    return page.replace("/*DATA*/", json.dumps(data, separators=(",", ":")))
