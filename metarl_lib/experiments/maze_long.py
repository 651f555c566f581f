"""The maze, at the ten million steps of Chalvidal et al."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from metarl_lib.experiments import maze
from metarl_lib.experiments.base import option

NAME = "maze_long"
PAIR = "metods-linear-S4", "gru"
"""Those that the paper's main claim compares."""


@dataclass(frozen=True)
class Config(maze.Config):
    """Fields of the experiment on the maze with the paper's budget."""

    updates: int = option(1563, "segments that are collected and learned from")
    variants: tuple[str, ...] = option(PAIR, "agents to train")


PRESETS = {
    "smoke": Config(**maze.SMOKE),
    "book": Config(updates=60, gru_units=32, num_units=32, test_trials=200, thorough=False),
    "full": Config(compile=True),
}  # fmt: skip

EXPERIMENT = replace(
    maze.EXPERIMENT,
    name=NAME,
    claim="With ten million steps, MetODS finds its way in new mazes better than RL²",
    presets=PRESETS,
    evaluate=partial(maze.evaluate, sizes=(maze.SIZE, maze.OTHER_SIZE)),
    cost={"smoke": "20 s", "book": "90 s", "full": "100 min"},
)
