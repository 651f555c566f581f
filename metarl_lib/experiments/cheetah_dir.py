"""Cheetah-dir: run forward, or backward, as the rewards say."""

from metarl_lib.envs.locomotion import CheetahDir
from metarl_lib.experiments.robots import robot_experiment

EXPERIMENT = robot_experiment(
    CheetahDir,
    outputs=7,
    updates=250,
    name="cheetah_dir",
    page="book/metods/04_locomotion.md",
    claim="A layer that rewrites its weights finds out within a life which way to run",
    cost={"smoke": "10 s", "book": "40 s", "full": "40 min"},
)
