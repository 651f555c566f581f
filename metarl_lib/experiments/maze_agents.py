"""The agents of the maze: their memories, and what they see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from metarl_lib.cores import GRU, SRWM, Backpropamine, Core, MetODS
from metarl_lib.envs.maze import Maze
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.meta_agents import Build, maml, matched_gru, metods, with_core

SIZE = 8
OUTPUTS = 5  # four actions and a value
ENVS = {target: Trial(Maze(SIZE, target=target)) for target in ("hidden", "visible")}


@dataclass(frozen=True)
class Variant:
    """An agent: how it is made, and whether it can see the target."""

    build: Build
    target: str = "hidden"


def wide(config: Any, size: int) -> Core:
    """S = 1 with as many numbers of W passed over in a step as S = 4, which passes S + 2 times."""
    units = round(config.num_units * (6 / 3) ** 0.5)
    return MetODS(size, units, 1, compile=config.compile)


def with_gru_state(config: Any, size: int) -> Core:
    """A W of about as many numbers as the GRU of `gru_units` units carries on."""
    return MetODS(size, max(1, round(config.gru_units**0.5)), compile=config.compile)


ENDS = {"matrix": "", "scalar": "-scalar", "none": "-no-alpha"}
GRID: dict[str, Variant] = {
    f"metods-{write}-S{depth}{ENDS[plasticity]}": Variant(
        with_core(metods(depth, write, plasticity))
    )
    for write, depth, plasticity in product(("linear", "vanilla", "mlp"), (4, 2, 1), ENDS)
}
"""All that Chalvidal et al. vary, crossed."""

OTHERS: dict[str, Variant] = {
    "gru": Variant(with_core(lambda config, size: GRU(size, config.gru_units))),
    "gru-matched": Variant(with_core(matched_gru(OUTPUTS))),
    "backpropamine": Variant(
        with_core(
            lambda config, size: Backpropamine(size, config.num_units, compile=config.compile)
        )
    ),
    "srwm": Variant(with_core(lambda config, size: SRWM(size, config.num_units))),
    "metods-linear-S1-wide": Variant(with_core(wide)),
    "metods-linear-S4-state-matched": Variant(with_core(with_gru_state)),
    "maml": Variant(maml("fixed")),
    "maml-rates": Variant(maml("learned")),
}
SEEING = (
    "metods-linear-S4", "metods-linear-S2", "metods-linear-S1", "metods-mlp-S4",
    "metods-vanilla-S4", "metods-vanilla-S2", "metods-linear-S4-no-alpha", "gru", "maml",
    "maml-rates",
)  # fmt: skip
"""Those whose curves the paper draws; they live in mazes with a visible target, too."""

HIDDEN = GRID | OTHERS
VISIBLE = {f"{name}-visible": replace(HIDDEN[name], target="visible") for name in SEEING}
BARE = {"metods-linear-S4-no-encoder": Variant(with_core(metods(), encoded=False))}
VARIANTS: dict[str, Variant] = HIDDEN | VISIBLE | BARE
"""Every agent."""
