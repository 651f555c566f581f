"""A life to step through: what the agent does, its weights, and what changes in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WORLDS = {
    "harlow": "One Harlow trial",
    "maze": "One life in a maze",
    "robot": "One life of a robot",
}


def stepper(data: Mapping[str, Any], world: str = "harlow") -> str:
    """The figure as HTML.

    Args:
        data: `n` units; `steps`, what happens at each: the last `reward`, the `policy`, one
            probability for each action, and the `action`; and the weights row by row, `start`
            and their `changes` at each step, as whole numbers of `start_unit` and of `unit`.
            For `"harlow"`, a step also has the `position`, the cells and values of `things`,
            and the `presentation`. For `"maze"`, data also has the `size`, the `open` cells as
            a text of 0 and 1, and the number of the `target`'s; a step has that of the agent's
            `cell`. For `"robot"`, data also has the names of the `actuators`, whether it is seen
            from `above` and with which `tilt`, the share of a length ahead that is seen, the
            limbs' `radii`, and the `goal`, a direction, or None; a step has no policy but the
            torques as its `action`, where the robot is, `at`, to the right and ahead (or up),
            the ends of its `limbs` as they are seen from there, all in whole centimetres, and
            its `velocity`.
        world: what is drawn: `"harlow"`, `"maze"` or `"robot"`.
    """
    page = (FOLDER / "stepper.html").read_text(encoding="utf-8")
    page = page.replace("<!--TITLE-->", WORLDS[world])
    page = page.replace("/*WORLD*/", (FOLDER / f"{world}.js").read_text(encoding="utf-8"))
    return page.replace("/*DATA*/", json.dumps(data, separators=(",", ":")))
