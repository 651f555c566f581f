"""ML1 reach: put the hand where the rewards say."""

from metarl_lib.experiments.robot_arm import arm_experiment

EXPERIMENT = arm_experiment(
    "reach-v3",
    name="ml1_reach",
    page="book/metods/05_robot_arm.md",
    claim="A layer that rewrites its weights reaches places that it was never trained on",
    cost={"smoke": "20 s", "book": "60 s", "full": "30 min"},
)
