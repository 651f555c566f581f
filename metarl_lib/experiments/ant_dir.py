"""Ant-dir: run in the direction that the rewards tell."""

from metarl_lib.envs.locomotion import AntDir
from metarl_lib.experiments.robots import robot_experiment

EXPERIMENT = robot_experiment(
    AntDir,
    outputs=9,
    updates=130,
    name="ant_dir",
    page="book/metods/04_locomotion.md",
    claim="A layer that rewrites its weights finds out within a life where to run",
    cost={"smoke": "20 s", "book": "60 s", "full": "40 min"},
)
