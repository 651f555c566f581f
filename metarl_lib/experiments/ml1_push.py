"""ML1 push: push a puck to where the rewards say."""

from metarl_lib.experiments.robot_arm import arm_experiment

EXPERIMENT = arm_experiment(
    "push-v3",
    name="ml1_push",
    page="book/metods/06_pushing_and_ten_kinds.md",
    claim="A layer that rewrites its weights pushes a puck to places that it was never trained on",
    cost={"smoke": "20 s", "book": "60 s", "full": "40 min"},
)
