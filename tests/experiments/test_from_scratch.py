"""Learners from nothing: one task for good, lives apart, and a search that finds the best."""

import pytest
import torch

from metarl_lib.algos import MetaGradient
from metarl_lib.algos.meta_settings import MetaSettings
from metarl_lib.envs.base import NotFiniteError
from metarl_lib.envs.point_robot import PointRobot, PointTasks
from metarl_lib.experiments import from_scratch
from metarl_lib.experiments.from_scratch import LEARNERS, Pinned, live
from metarl_lib.runs import DivergenceError, Run

GOALS = PointTasks(torch.tensor([[0.0, 1.0], [1.0, 0.0], [-0.6, 0.8]]))
AGENT = {"hidden": 8, "log_std": -0.5}


def lives(learner="meta-gradient", choice=(3e-3, 0.8), tasks=GOALS, episodes=5, seed=1):
    return live(PointRobot(steps=10), tasks, learner, choice, episodes, seed, **AGENT)


def test_the_task_stays_and_the_rest_is_the_environments() -> None:
    env, stream = PointRobot(steps=10), torch.Generator().manual_seed(0)
    alone = Pinned(env, PointTasks(GOALS.goal[2:]))
    assert alone.action_space is env.action_space
    assert alone.observation_space is env.observation_space
    for split in ("train", "test"):
        assert alone.sample_tasks(3, stream, split).goal.tolist() == GOALS.goal[2:].tolist() * 3
    tasks = alone.sample_tasks(2, stream)
    state, seen = alone.reset(tasks, stream)
    action = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    _, step = alone.step(state, action, stream)
    assert torch.equal(step.observation, seen + 0.1 * action)
    torch.testing.assert_close(step.reward, -(step.observation - tasks.goal).norm(dim=1))


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_life_depends_on_its_task_and_place_alone(learner) -> None:
    whole = lives(learner)
    first = lives(learner, tasks=PointTasks(GOALS.goal[:1]))
    assert whole.rewards.shape == (5, 3)
    assert torch.equal(whole.rewards[:, 0], first.rewards[:, 0])
    assert torch.equal(whole.discounts[:1], first.discounts)
    other = lives(learner, tasks=PointTasks(GOALS.goal[[0, 2, 1]]))
    assert torch.equal(whole.rewards[:, 0], other.rewards[:, 0])
    assert not torch.equal(whole.rewards[:, 1], other.rewards[:, 1])


def test_rewards_are_those_of_whole_episodes_in_the_task(monkeypatch) -> None:
    """Against the rewards of every step, seen as they are collected."""
    seen, collect = [], MetaGradient.collect

    def watched(self):
        experience, finished = collect(self)
        seen.append(experience)
        return experience, finished

    monkeypatch.setattr(MetaGradient, "collect", watched)
    found = lives("actor-critic").rewards
    for place in range(3):
        for k, episode in enumerate(seen[5 * place : 5 * place + 5]):
            position, total = torch.zeros(2), 0.0
            for action in episode.actions[:, 0]:
                position = position + 0.1 * action.clamp(-1, 1)
                total -= float((position - GOALS.goal[place]).norm())
            assert float(found[k, place]) == pytest.approx(total / 10, rel=1e-5)
            assert episode.ended[:, 0].tolist() == [False] * 9 + [True]


def test_only_one_of_them_learns_its_return_and_both_learn_the_task() -> None:
    fixed = lives("actor-critic", episodes=80)
    learned = lives("meta-gradient", episodes=80)
    assert torch.allclose(fixed.discounts, torch.tensor(0.8))
    assert torch.allclose(fixed.lambdas, torch.tensor(0.95))
    assert float((learned.discounts - 0.8).abs().min()) > 1e-3
    for found in (fixed, learned):
        assert float(found.rewards[-20:].mean() - found.rewards[:10].mean()) > 0.3


def test_the_search_takes_what_earns_most(tmp_path) -> None:
    run = Run.create(tmp_path / "r", "x", MetaSettings(), scale="smoke", seed=0)
    stage, env = run.stage("meta-gradient"), PointRobot(steps=10)
    rates, discounts = (1e-4, 1e-2), (0.5, 0.9)
    from_scratch.tune(stage, env, GOALS, "meta-gradient", rates, discounts, 20, 1, **AGENT)
    scores = {
        (rate, discount): float(lives(choice=(rate, discount), episodes=20).rewards.mean())
        for rate in rates
        for discount in discounts
    }
    best = max(scores, key=lambda choice: scores[choice])
    assert stage.finished
    assert (stage.values["rate"], stage.values["discount"]) == best
    assert stage.values["score"] == pytest.approx(scores[best])


def test_a_choice_that_diverges_is_no_choice(tmp_path) -> None:
    """With the first rate all weights are NaN after an update, and the robot refuses to move."""
    with pytest.raises(NotFiniteError, match="action holds 2 NaN"):
        lives(choice=(1e30, 0.8))
    run = Run.create(tmp_path / "r", "x", MetaSettings(), scale="smoke", seed=0)
    stage, search = run.stage("a"), (PointRobot(steps=10), GOALS, "meta-gradient")
    from_scratch.tune(stage, *search, (1e30, 1e-2), (0.8,), 5, 1, **AGENT)
    score = float(lives(choice=(1e-2, 0.8)).rewards.mean())
    assert stage.values == {"rate": 1e-2, "discount": 0.8, "score": pytest.approx(score)}
    with pytest.raises(DivergenceError, match=r"rates=\(1e\+30,\): every one diverged"):
        from_scratch.tune(run.stage("b"), *search, (1e30,), (0.8,), 5, 1, **AGENT)


def test_a_search_in_which_all_diverge_says_what_to_do(tmp_path, monkeypatch) -> None:
    nothing = from_scratch.Earned(*(torch.full((2, 3), float("nan")) for _ in range(3)))
    monkeypatch.setattr(from_scratch, "live", lambda *_, **__: nothing)
    run = Run.create(tmp_path / "r", "x", MetaSettings(), scale="smoke", seed=0)
    search = run.stage("actor-critic"), PointRobot(), GOALS, "actor-critic", (9.0,), (0.9,), 2, 0
    with pytest.raises(DivergenceError, match=r"rates=\(9.0,\): every one diverged; add smaller"):
        from_scratch.tune(*search, **AGENT)
