"""Bandits: every pull against a plain row, the draws of tasks, and what is known in closed form."""

import math

import numpy as np
import pytest
import torch
from plain_tasks import PlainBandit, close, same, twin
from scipy import stats
from streams import stream

from metarl_lib.envs.bandit import KINDS, LOW, Bandit, BanditTasks

ROWS, STEPS = 7, 12
CASES = [(kind, 4 if kind in ("bernoulli", "gaussian") else 2) for kind in KINDS]
CONTINUOUS = [case for case in CASES if case[0] not in LOW]


def within(values: torch.Tensor, expected: float, errors: float = 4.0) -> None:
    """The mean is the expected one, up to some standard errors of the mean."""
    values = values.double().flatten()
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < errors * error, (values.mean(), expected, error)


@pytest.mark.parametrize("show_time", [False, True])
@pytest.mark.parametrize(("kind", "arms"), CASES)
def test_every_pull_is_that_of_the_plain_row(kind, arms, show_time) -> None:
    env, generator = Bandit(arms, STEPS, kind, show_time=show_time), stream()
    tasks = env.sample_tasks(ROWS, generator)
    plain = [PlainBandit(m, STEPS, kind == "gaussian", show_time) for m in tasks.means.tolist()]
    state, observation = env.reset(tasks, generator)
    close(observation, [row.observation() for row in plain], 1e-6)
    for _ in range(STEPS):
        action = torch.randint(arms, (ROWS,), generator=generator)
        draw = torch.randn if kind == "gaussian" else torch.rand
        chances = draw(ROWS, generator=twin(generator)).tolist()
        state, step = env.step(state, action, generator)
        same(step, [*map(PlainBandit.step, plain, action.tolist(), chances)], 1e-6)
    assert step.terminated.all()


@pytest.mark.parametrize(("kind", "arms"), CASES)
def test_rewards_have_the_means_of_the_arms(kind, arms) -> None:
    env, generator = Bandit(arms, 1, kind), stream()
    one = env.sample_tasks(1, generator).means
    tasks = BanditTasks(one.expand(4000, -1))
    for arm in range(arms):
        state, _ = env.reset(tasks, generator)
        _, step = env.step(state, torch.full((4000,), arm), generator)
        within(step.reward, float(one[0, arm]))
        if kind == "gaussian":
            assert stats.kstest(step.reward.double() - float(one[0, arm]), "norm").pvalue > 1e-3
        else:
            assert set(step.reward.tolist()) <= {0.0, 1.0}


def uniform(kind: str, means: torch.Tensor) -> np.ndarray:
    """The means as numbers that are uniform in [0, 1), double precision."""
    if kind == "gaussian":
        return stats.norm.cdf(means.double())
    return means.double().numpy()[:, : 1 if kind == "dependent-uniform" else None]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("kind", "arms"), CONTINUOUS)
def test_means_are_drawn_from_the_distribution_that_is_named(kind, arms, split) -> None:
    u = uniform(kind, Bandit(arms, kind=kind).sample_tasks(20_000, stream(), split).means)
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    if kind != "dependent-uniform":
        correlation = np.corrcoef(u.T) - np.eye(arms)
        assert np.abs(correlation).max() < 4 / math.sqrt(20_000)
        for times in (4, 64):  # nor do they hang together on a finer scale
            finer = np.corrcoef((times * u % 1).T) - np.eye(arms)
            assert np.abs(finer).max() < 4 / math.sqrt(20_000)


@pytest.mark.parametrize(("kind", "arms"), CONTINUOUS)
def test_no_test_bandit_can_be_a_training_bandit(kind, arms) -> None:
    """Fields of the chessboard: an even sum in training, an odd one in tests."""
    env = Bandit(arms, kind=kind)
    for parity, split in enumerate(("train", "test")):
        u = uniform(kind, env.sample_tasks(20_000, stream(parity), split).means)
        assert set(np.floor(u * 1024).sum(-1) % 2) == {parity}


@pytest.mark.parametrize("split", ["train", "test"])
def test_dependent_arms_add_up_to_one(split) -> None:
    for kind in KINDS[2:]:
        means = Bandit(2, kind=kind).sample_tasks(1000, stream(), split).means
        assert means.sum(-1).tolist() == [1.0] * 1000
        if kind in LOW:
            low = {"easy": 0.1, "medium": 0.25, "hard": 0.4}[kind.split("-")[1]]
            assert {round(p, 6) for p in means[:, 0].tolist()} == {low, 1 - low}
            within((means[:, 0] > 0.5).float(), 0.5)


def returns(env: Bandit, rows: int, best: bool) -> torch.Tensor:
    """Of pulling at random, or of always pulling the best arm."""
    generator = stream(5)
    tasks = env.sample_tasks(rows, generator)
    state, _ = env.reset(tasks, generator)
    total = torch.zeros(rows)
    for _ in range(env.max_steps):
        action = torch.randint(env.arms, (rows,), generator=generator)
        state, step = env.step(state, tasks.means.argmax(-1) if best else action, generator)
        total += step.reward
        assert not (best and step.info["regret"].any())
    return total


@pytest.mark.parametrize(
    ("kind", "arms", "expected"),
    [
        ("bernoulli", 2, 2 / 3),
        ("bernoulli", 5, 5 / 6),
        ("gaussian", 2, 1 / math.sqrt(math.pi)),
        ("dependent-uniform", 2, 3 / 4),
        ("dependent-easy", 2, 0.9),
        ("dependent-medium", 2, 0.75),
        ("dependent-hard", 2, 0.6),
    ],
)
def test_the_best_arm_and_a_random_one_earn_what_is_known(kind, arms, expected) -> None:
    """The largest of k uniform numbers is k / (k + 1) on average."""
    env = Bandit(arms, 10, kind)
    within(returns(env, 4000, best=True), 10 * expected)
    within(returns(env, 4000, best=False), 0 if kind == "gaussian" else 5)


def test_a_bandit_has_nothing_to_see() -> None:
    env = Bandit(3, 4)
    state, first = env.reset(env.sample_tasks(2, stream()), stream())
    _, step = env.step(state, torch.tensor([0, 2]), stream())
    assert first.tolist() == step.observation.tolist() == [[0.0], [0.0]]
    assert env.max_steps == env.steps == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arms": 1}, "arms=1.*whole number >= 2"),
        ({"steps": 0}, "steps=0.*whole number >= 1"),
        ({"steps": True}, "steps=True"),
        ({"kind": "beta"}, "kind='beta' is unknown: choose one of bernoulli, gaussian, dependent-"),
        ({"kind": "dependent-easy"}, "arms=5 does not go with kind='dependent-easy': give arms=2"),
        ({"kind": "dependent-uniform", "arms": 3}, "arms=3 does not go"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        Bandit(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_split_is_refused(kind) -> None:
    arms = 5 if kind in ("bernoulli", "gaussian") else 2
    with pytest.raises(ValueError, match=r"split='valid' is unknown.*train, test"):
        Bandit(arms, kind=kind).sample_tasks(3, stream(), "valid")
