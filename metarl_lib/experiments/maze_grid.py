"""The maze, varied: what of MetODS it takes, and what else would do, at a smaller budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from metarl_lib.experiments import maze
from metarl_lib.experiments.base import option
from metarl_lib.experiments.maze_agents import VARIANTS

NAME = "maze_grid"


@dataclass(frozen=True)
class Config(maze.Config):
    """Fields of the experiment on the maze with every agent."""

    updates: int = option(235, "segments that are collected and learned from")
    num_units: int = option(32, "units of the cells that rewrite their weights")
    variants: tuple[str, ...] = option(tuple(VARIANTS), "agents to train")
    thorough: bool = option(False, "test in mazes of more sizes, and read the memories, too")


SMALL = ("metods-vanilla-S2-scalar", "srwm", "maml", "metods-mlp-S4-visible")
PRESETS = {
    "smoke": Config(
        rows=4, segment=12, updates=2, epochs=1, encoder_units=4, num_units=4, gru_units=4,
        maml_units=4, maml_horizon=5, test_trials=20, variants=SMALL,
    ),
    "book": Config(updates=20, gru_units=32, test_trials=200, variants=SMALL),
    "full": Config(compile=True),
}  # fmt: skip

EXPERIMENT = replace(
    maze.EXPERIMENT,
    name=NAME,
    claim="Deep updates and a learned plasticity make MetODS better in mazes",
    presets=PRESETS,
    cost={"smoke": "20 s", "book": "90 s", "full": "2 h"},
)
