"""One Harlow trial to step through: the line of cells, the weights, and what changes in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("stepper.html")


def stepper(data: Mapping[str, Any]) -> str:
    """The figure as HTML.

    Args:
        data: `n` units; `steps`, what the agent sees and does at each: `position` and the cells
            and values of `things`, the last `reward`, the `presentation`, the probability of
            stepping `right`, and its `action`; and the weights row by row, `start` and their
            `changes` at each step, as whole numbers of `start_unit` and of `unit`.
    """
    page = TEMPLATE.read_text(encoding="utf-8")
    return page.replace("/*DATA*/", json.dumps(data, separators=(",", ":")))
