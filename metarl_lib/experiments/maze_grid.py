"""The maze, varied: what of MetODS it takes, and what else would do, in layers half as wide."""

from __future__ import annotations

from dataclasses import dataclass, replace

from metarl_lib.experiments import maze
from metarl_lib.experiments.base import option
from metarl_lib.experiments.maze_agents import GRID

NAME = "maze_grid"
BESIDE = "gru-matched", "srwm", "metods-linear-S1-wide", "metods-linear-S4-state-matched"
"""Other memories with as many parameters, units, operations, or numbers that they carry on."""
TESTED_AGAIN = "metods-linear-S4", "metods-linear-S1", "metods-vanilla-S4", "metods-mlp-S4"


@dataclass(frozen=True)
class Config(maze.Config):
    """Fields of the experiment on the maze with everything varied that the paper varies."""

    num_units: int = option(32, "units of the cells that rewrite their weights")
    variants: tuple[str, ...] = option((*GRID, *BESIDE), "agents to train")
    costly: tuple[str, ...] = option((), "those of them that few seeds train")
    test_trials: int = option(1000, "trials of a test, in mazes never seen")
    thorough: bool = option(False, "test in mazes of more sizes, and read the memories, too")


SMALL = "metods-vanilla-S2-scalar", "metods-linear-S1", "metods-mlp-S4", "srwm"
PRESETS = {
    "smoke": Config(**maze.SMOKE, variants=SMALL),
    "book": Config(updates=20, gru_units=32, test_trials=200, variants=SMALL),
    "full": Config(
        compile=True, brief=tuple(v for v in (*GRID, *BESIDE) if v not in TESTED_AGAIN)
    ),
}  # fmt: skip

EXPERIMENT = replace(
    maze.EXPERIMENT,
    name=NAME,
    claim="Deep updates and a learned plasticity make MetODS better in mazes",
    presets=PRESETS,
    cost={"smoke": "20 s", "book": "90 s", "full": "2 h"},
)
