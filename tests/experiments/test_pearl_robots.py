"""PEARL on robots: what is trained and tested, and its numbers again from what is published."""

from dataclasses import replace

import jaxtyping
import pytest
import torch

pytest.importorskip(
    "metaworld", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)

from metarl_lib.experiments import ant_dir, cheetah_dir, cheetah_vel, ml1_reach, pearl_robots
from metarl_lib.experiments.pearl import adapt
from metarl_lib.experiments.pearl_robots import BODIES, EXPERIMENT, env_of, settings_of
from metarl_lib.runs import Run

SMALL, FULL = EXPERIMENT.presets["smoke"], EXPERIMENT.presets["full"]
# Trained for steps of the environment: with three tasks, then with two of them as often as the
# body's iterations say, two episodes each.
STEPS = {"cheetah-dir": 7 * 20, "cheetah-vel": 7 * 20, "ant-dir": 5 * 20, "ant-line": 5 * 20}
STEPS |= {"reach": 5 * 6}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run at smoke scale, at full speed, so without shape checks: its rows and tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        folder = tmp_path_factory.mktemp("robots") / "run"
        made = Run.create(folder, EXPERIMENT.name, SMALL, scale="smoke", seed=0)
        return EXPERIMENT.run(SMALL, made), made.tensors()


@pytest.mark.parametrize("variant", BODIES)
def test_from_end_to_end(done, variant) -> None:
    rows = [r for r in done[0] if r["variant"] == variant]
    values = {r["metric"]: r["value"] for r in rows}
    assert {r["budget"] for r in rows if "@" in r["metric"]} == {STEPS[variant]}
    assert values["gradient_steps"] == 2 * settings_of(SMALL, variant).iterations
    assert {f"return{s}@{k}" for s in ("", "_mean", "_prior") for k in (1, 2, 3)} < values.keys()
    assert values["gain"] == pytest.approx(values["return@3"] - values["return@1"])
    assert ("success@1" in values) == ("train_success@1" in values) == (variant == "reach")
    # What begins an episode is no different for who forgets: nothing is known yet.
    assert values["return@1"] == pytest.approx(values["return_prior@1"], rel=1e-5)


def test_the_published_agents_give_their_short_returns_again(done) -> None:
    found = EXPERIMENT.evaluate(SMALL, 0, done[1])
    assert {r["variant"] for r in found} == set(BODIES)
    first = {(r["variant"], r["metric"]): r["value"] for r in done[0]}
    for r in found:
        assert r["value"] == first[r["variant"], r["metric"]]


def test_short_episodes_are_no_longer_than_others_can_repeat() -> None:
    assert env_of(FULL, "ant-dir").max_steps == 200
    assert env_of(FULL, "ant-dir", 30).max_steps == 30
    assert env_of(replace(FULL, steps=7), "ant-dir", 30).max_steps == 7


def test_the_tasks_of_the_robots() -> None:
    """Ants on a line run forward or backward alone, those of `ant-dir` anywhere."""
    many = {}
    for variant in ("ant-line", "ant-dir", "cheetah-dir", "cheetah-vel"):
        goals = env_of(SMALL, variant).sample_tasks(50, torch.Generator().manual_seed(0)).goal
        many[variant] = sorted(set(map(tuple, goals.tolist())))
    assert many["ant-line"] == [(-1.0, 0.0), (1.0, 0.0)]
    assert many["cheetah-dir"] == [(-1.0,), (1.0,)]
    assert len(many["ant-dir"]) == len(many["cheetah-vel"]) == 50


@pytest.mark.parametrize(
    ("variant", "memory"),
    [("cheetah-dir", cheetah_dir), ("cheetah-vel", cheetah_vel), ("ant-dir", ant_dir),
     ("reach", ml1_reach)],
)  # fmt: skip
def test_lived_as_long_as_the_agents_with_a_memory(variant, memory) -> None:
    """Of the environment PEARL has as many steps as they, to five per cent, and no more."""
    theirs = memory.EXPERIMENT.presets["full"]
    steps = theirs.rows * theirs.segment * theirs.updates
    ours = settings_of(FULL, variant).environment_steps(env_of(FULL, variant).max_steps)
    assert 0.95 * steps <= ours <= steps


def test_returns_are_sums_of_rewards() -> None:
    agent = pearl_robots.make_agent(SMALL, "cheetah-vel", 1)
    lived = adapt(env_of(SMALL, "cheetah-vel"), SMALL, 1, agent)
    torch.testing.assert_close(lived.returns, lived.steps.shown.sum(-1))
    assert lived.real.all()
    assert not lived.steps.terminal.any(), "the clock ends an episode, not the task"


def test_values_out_of_range() -> None:
    with pytest.raises(ValueError, match="arm_steps=0: must be greater than 0"):
        replace(SMALL, arm_steps=0)
    with pytest.raises(ValueError, match="variants='dog' is unknown"):
        replace(SMALL, variants=("dog",))
