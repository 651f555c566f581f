"""PEARL on robots: end to end at smoke scale, and its numbers again from what is published."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip(
    "mujoco", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)

from metarl_lib.experiments import pearl_robots
from metarl_lib.experiments.pearl import adapt
from metarl_lib.experiments.pearl_robots import ANT_DIR, CHEETAH_VEL

SMALL = pearl_robots.PRESETS["smoke"]


@pytest.mark.parametrize("experiment", [CHEETAH_VEL, ANT_DIR], ids=lambda e: e.name)
def test_from_end_to_end(run, experiment) -> None:
    rows = experiment.run(SMALL, run)
    values = {r["metric"]: r["value"] for r in rows}
    # Every task at first, then two in each of two iterations; two episodes of ten steps each.
    assert {r["budget"] for r in rows if "@" in r["metric"]} == {(3 + 2 * 2) * 2 * 10}
    assert values["gradient_steps"] == 4
    assert {f"return{s}@{k}" for s in ("", "_mean", "_prior") for k in (1, 2)} < values.keys()
    again = {r["metric"]: r["value"] for r in experiment.evaluate(SMALL, run.seed, run.tensors())}
    assert again == {f"return@{k}": values[f"return@{k}"] for k in (1, 2)}


def test_the_tasks_of_the_robots() -> None:
    """Ants forward or backward alone; cheetahs at other velocities in tests than in training."""
    ant = ANT_DIR.run.args[0](7)
    tasks = ant.sample_tasks(50, torch.Generator().manual_seed(0))
    assert sorted(set(map(tuple, tasks.goal.tolist()))) == [(-1.0, 0.0), (1.0, 0.0)]
    assert ant.max_steps == CHEETAH_VEL.run.args[0](7).max_steps == 7


def test_returns_are_sums_of_rewards() -> None:
    make = CHEETAH_VEL.run.args[0]
    agent = pearl_robots.make_agent(make, SMALL, 1)
    lived = adapt(make(SMALL.steps), SMALL, 1, agent)
    torch.testing.assert_close(lived.returns, lived.steps.shown.sum(-1))
    assert lived.real.all()
    assert not lived.steps.terminal.any(), "the clock ends an episode, not the task"


def test_values_out_of_range() -> None:
    with pytest.raises(ValueError, match="steps=0: must be greater than 0"):
        replace(SMALL, steps=0)
    with pytest.raises(ValueError, match="latent=-1: must be greater than 0"):
        replace(SMALL, latent=-1)
