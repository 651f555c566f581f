"""ML10: ten kinds of tasks to learn from, five others to be tested on."""

from dataclasses import replace

from metarl_lib.experiments.robot_arm import PRESETS, arm_experiment

EXPERIMENT = arm_experiment(
    "ML10",
    replace(PRESETS["full"], test_trials=25),
    name="ml10",
    page="book/metods/06_pushing_and_ten_kinds.md",
    claim="A layer that rewrites its weights does tasks of kinds that it was never trained on",
    cost={"smoke": "20 s", "book": "60 s", "full": "40 min"},
)
