"""Trials against one row at a time: episodes of one task, and what is added to the observation."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from plain_tasks import PlainBandit, PlainHarlow, PlainPoint, PlainTrial, close, same, twin
from streams import stream
from toys import KICKS, Toy

from metarl_lib.envs.bandit import Bandit
from metarl_lib.envs.harlow import Harlow
from metarl_lib.envs.layerwise import Layerwise
from metarl_lib.envs.point_robot import PointRobot
from metarl_lib.envs.trial import Trial
from metarl_lib.envs.two_step import TwoStep
from metarl_lib.envs.weight_space import WeightSpace

ROWS = 6


def one_hot(count: int):
    return lambda action: [float(action == a) for a in range(count)]


class PlainToy:
    """A row of `toys.Toy` with one agent."""

    def __init__(self, mark: float) -> None:
        self.mark, self.time, self.total = mark, 0, 0.0

    def observation(self) -> list[float]:
        return [self.mark, self.time, self.total]

    def step(self, action: list[float], kick: int):
        self.time, self.total = self.time + 1, self.total + action[0] + kick
        length = 2 + self.mark % 4
        over = self.time >= length
        said = type("Said", (), {})()
        said.observation, said.reward = self.observation(), self.mark + self.time + self.total
        said.terminated, said.truncated = over and length in (3, 5), over and length != 3
        said.info = {"double": 2 * self.time}
        return said


class LimitedToy(Toy):
    """Says how long its episodes can last."""

    max_steps = 5


class Case:
    """An environment, how a plain row of it starts, and what is drawn, in the same order."""

    def __init__(self, env, start, choices=None, starts=None, steps=None) -> None:
        self.env, self.start, self.choices = env, start, choices
        self.starts = starts or (lambda generator: [()] * ROWS)
        self.steps = steps or (lambda generator: [()] * ROWS)

    def act(self, generator):
        if self.choices:
            return torch.randint(self.choices, (ROWS,), generator=generator)
        return torch.randn(ROWS, *self.env.action_space.shape, generator=generator)


def bandit() -> Case:
    return Case(
        Bandit(3, 4, show_time=True),
        lambda tasks, b: PlainBandit(tasks.means[b].tolist(), 4, False, True),
        choices=3,
        steps=lambda g: [(c,) for c in torch.rand(ROWS, generator=g).tolist()],
    )


def harlow() -> Case:
    return Case(
        Harlow(1, 20),
        lambda tasks, b, shift: PlainHarlow(float(tasks[0][b]), float(tasks[1][b]), shift, 1, 20),
        choices=2,
        starts=lambda g: [(s,) for s in torch.randint(-3, 3, (ROWS,), generator=g).tolist()],
        steps=lambda g: [(c,) for c in torch.randint(2, (ROWS,), generator=g).tolist()],
    )


def point_robot() -> Case:
    return Case(PointRobot(steps=3), lambda tasks, b: PlainPoint(tasks.goal[b].tolist(), 3, None))


def toy() -> Case:
    return Case(
        LimitedToy(),
        lambda tasks, b: PlainToy(float(tasks[b])),
        steps=lambda g: torch.randint(KICKS, (ROWS, 1), generator=g).tolist(),
    )


CASES = {"bandit": bandit, "harlow": harlow, "point robot": point_robot, "toy": toy}
LENGTHS = {"bandit": 4, "harlow": 20, "point robot": 3, "toy": 5}


@pytest.mark.parametrize("show", [True, False], ids=["reward seen", "reward hidden"])
@pytest.mark.parametrize("episodes", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_every_step_is_that_of_the_plain_row(name, episodes, show) -> None:
    case, generator = CASES[name](), stream()
    env = Trial(case.env, episodes, reward_input=show)
    tasks = env.sample_tasks(ROWS, generator)
    firsts = case.starts(twin(generator))
    state, observation = env.reset(tasks, generator)
    encode, nothing = (one_hot(case.choices), case.choices) if case.choices else (
        list, case.env.action_space.shape[0]
    )  # fmt: skip
    plain = [
        PlainTrial(
            lambda *d, b=b: case.start(tasks, b, *d), episodes, encode, firsts[b], nothing, show
        )
        for b in range(ROWS)
    ]
    close(observation, [row.first for row in plain], 1e-6)
    over: set[int] = set()
    for _ in range(episodes * LENGTHS[name]):
        action = case.act(generator)
        draws = twin(generator)
        drawn = case.steps(draws)
        again = [row.act(a, *d) for row, a, d in zip(plain, action.tolist(), drawn, strict=True)]
        starts = case.starts(draws) if any(again) else [None] * ROWS
        said = [
            row.finish(s if a else None) for row, a, s in zip(plain, again, starts, strict=True)
        ]
        state, step = env.step(state, action, generator)
        assert torch.equal(generator.get_state(), draws.get_state())
        same(step, said, 1e-5)
        assert step.observation.shape[1:] == env.observation_space.shape
        over |= {b for b in range(ROWS) if said[b].terminated or said[b].truncated}
    assert over == set(range(ROWS))


def test_an_observation_has_its_four_parts_in_order() -> None:
    """Two episodes of two pulls; the arms pay surely, or never."""
    env = Trial(Bandit(3, 2, show_time=True), 2)
    tasks = env.sample_tasks(1, stream())._replace(means=torch.tensor([[0.0, 1.0, 0.0]]))
    state, observation = env.reset(tasks, stream())
    seen = [observation[0].tolist()]
    ends = []
    for action in (1, 2, 1, 1):
        state, step = env.step(state, torch.tensor([action]), stream())
        seen.append(step.observation[0].tolist())
        ends.append((bool(step.terminated), bool(step.info["inner_done"]),
                     int(step.info["inner_episode"])))  # fmt: skip
    assert seen == [
        # time left | action | reward | boundary
        [1.0, 0, 0, 0, 0, 0],
        [0.5, 0, 1, 0, 1, 0],
        [1.0, 0, 0, 1, 0, 1],
        [0.5, 0, 1, 0, 1, 0],
        [0.0, 0, 1, 0, 1, 1],
    ]
    assert ends == [(False, False, 0), (False, True, 0), (False, False, 1), (True, True, 1)]


def test_the_task_stays_and_the_episode_starts_anew() -> None:
    env, generator = Trial(PointRobot(steps=2), 3), stream()
    tasks = env.sample_tasks(ROWS, generator)
    state, _ = env.reset(tasks, generator)
    for t in range(1, 7):
        state, step = env.step(state, torch.ones(ROWS, 2), generator)
        assert torch.equal(state.inner.tasks.goal, tasks.goal)
        place = [0.1, 0.0, 0.1, 0.0, 0.1, 0.2][t - 1]  # the last episode's end is seen
        close(step.observation[:, :2], [[place, place]] * ROWS, 1e-6)
        assert step.truncated.all() == (t == 6)
        assert not step.terminated.any()


def test_actions_in_double_precision_are_seen_in_single() -> None:
    env = Trial(PointRobot(), 2)
    state, observation = env.reset(env.sample_tasks(ROWS, stream()), stream())
    _, step = env.step(state, torch.ones(ROWS, 2, dtype=torch.float64), stream())
    assert step.observation.dtype == observation.dtype == torch.float32


def test_ended_rows_alone_start_anew() -> None:
    """In Harlow's task rows end at different times; a reset is drawn for all, used by some."""
    env, generator = Trial(Harlow(1), 1000), stream()
    state, _ = env.reset(env.sample_tasks(40, generator), generator)
    mixed = 0
    for _ in range(100):
        before = state
        state, step = env.step(state, torch.randint(2, (40,), generator=generator), generator)
        done = step.info["inner_done"]
        assert torch.equal(state.episode, before.episode + done)
        assert torch.equal(state.inner.time, torch.where(done, 0, before.inner.time + 1))
        assert torch.equal(step.observation[:, -1], done.float())
        mixed += bool(done.any()) and not bool(done.all())
    assert mixed > 10


def test_off_the_cpu_the_same_is_done_without_a_look(monkeypatch) -> None:
    """There every step starts episodes for all rows, and most are not used."""

    def run() -> list[torch.Tensor]:
        env, generator = Trial(PointRobot(steps=3), 3), stream()
        state, observation = env.reset(env.sample_tasks(ROWS, generator), generator)
        seen = [observation]
        for _ in range(9):
            state, step = env.step(state, torch.randn(ROWS, 2, generator=generator), generator)
            seen += [step.observation, step.reward, step.truncated, *step.info.values()]
        return seen

    looked = run()
    monkeypatch.setattr("metarl_lib.envs.trial.some_true", lambda flags: True)
    assert all(map(torch.equal, looked, run()))


def test_the_longest_trial_is_k_times_the_longest_episode() -> None:
    assert Trial(Harlow(max_steps=30), 4).max_steps == 120
    assert Trial(TwoStep(7), 2).max_steps == 28


def test_the_space_is_that_of_the_parts() -> None:
    choice = Trial(Harlow(), 2).observation_space
    top = np.float32(1.001)
    assert choice == spaces.Box(
        np.array([0] * 9 + [0, 0, -math.inf, 0], np.float32),
        np.array([top] * 9 + [1, 1, math.inf, 1], np.float32),
    )
    numbers = Trial(PointRobot(), 2).observation_space
    assert numbers == spaces.Box(
        np.array([-math.inf] * 5 + [0], np.float32), np.array([math.inf] * 5 + [1], np.float32)
    )
    assert Trial(Bandit(4), 2).action_space == spaces.Discrete(4)


@pytest.mark.parametrize("episodes", [0, -1])
def test_a_trial_needs_an_episode(episodes) -> None:
    with pytest.raises(ValueError, match=rf"episodes={episodes}: must be a whole number >= 1"):
        Trial(Bandit(), episodes)


def test_an_environment_without_a_longest_episode_is_refused_in_one_line(unchecked) -> None:
    words = r"env=Toy: has no max_steps, .*a trial needs it"
    with pytest.raises(ValueError, match=words) as refusal:
        Trial(Toy(), 2)
    assert "\n" not in str(refusal.value)


def test_base_networks_live_in_trials() -> None:
    """Two lives of three steps, the second of which begins with weights of its own."""
    env = gymnasium.make("metarl/WeightSpace-v0", episodes=2, widths=(10, 7, 10), steps=3)
    env.reset(seed=1)
    assert env.unwrapped.rows.env.max_steps == 6
    ends = []
    for _ in range(6):
        _, _, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
        ends.append((info["inner_episode"], info["inner_done"], terminated or truncated))
    assert ends == [(k // 3, k % 3 == 2, k == 5) for k in range(6)]
    assert Layerwise(steps=4).max_steps == WeightSpace(steps=4).max_steps == 4


def test_observations_and_actions_of_other_kinds_are_refused_in_one_line() -> None:
    other = Bandit()
    other.observation_space = spaces.Box(0.0, 1.0, (2, 3), np.float32)
    with pytest.raises(ValueError, match=r"observations of Box.*flat Box") as refusal:
        Trial(other)
    assert "\n" not in str(refusal.value)
    other = Bandit()
    other.action_space = spaces.MultiDiscrete([2, 2])
    with pytest.raises(ValueError, match=r"actions of MultiDiscrete.*Discrete or Box") as refusal:
        Trial(other)
    assert "\n" not in str(refusal.value)
    other.observation_space = spaces.Discrete(3)
    with pytest.raises(ValueError, match="observations of Discrete"):
        Trial(other)
