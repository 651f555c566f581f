"""What is read out of lives in mazes: against counts in Python and a ridge regression in NumPy."""

import numpy as np
import pytest
import torch
from plain_lives import seeded
from torch.distributions import Categorical

from metarl_lib.algos import Agent
from metarl_lib.algos.actor_critic import Outputs
from metarl_lib.envs.maze import Maze
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.maze import Config, make_agent
from metarl_lib.experiments.maze_readings import earned, explained, place, probed
from metarl_lib.experiments.meta_training import play

SIZE, ROWS = 5, 120
MOMENTS = (10, 25, 50, 99)


def test_what_is_earned_is_counted_reward_by_reward() -> None:
    rewards = 10 * (torch.rand(7, 60, generator=seeded(1)) < 0.2).float()
    rewards[:, 0] = 0
    rewards[:, 1] = 10
    rewards[:6, 2], rewards[6, 2] = 0, 10
    found = {name: values.tolist() for name, values in earned(rewards).items()}
    expected = {"return": [], "success": [], "first_reward": []}
    for life in rewards.T.tolist():
        expected["return"].append(sum(life))
        expected["success"].append(float(10 in life))
        expected["first_reward"].append(life.index(10) + 1 if 10 in life else 7)
    assert found == expected
    assert found["first_reward"][:3] == [7, 1, 7]
    assert found["success"][:3] == [0, 1, 1]


def test_a_place_is_row_and_column() -> None:
    cells = torch.tensor([0, 4, 5, 13, 24])
    found = place(cells, 5)
    assert found.tolist() == [[0, 0], [0, 4], [1, 0], [2, 3], [4, 4]]
    assert found.dtype == torch.float64
    assert place(cells, 8).tolist() == [[0, 0], [0, 4], [0, 5], [1, 5], [3, 0]]


def plain_r2(x, y, fitted, judged, ridge):
    """R² of the primal problem: least squares with a row for each weight that pulls it to 0."""
    mean, level = x[fitted].mean(0), y[fitted].mean(0)
    away = x[fitted] - mean
    pull = np.sqrt(ridge * np.square(away).sum(1).mean()) * np.eye(x.shape[1])
    wanted = np.concatenate([y[fitted] - level, np.zeros((x.shape[1], 2))])
    weights = np.linalg.lstsq(np.concatenate([away, pull]), wanted, rcond=None)[0]
    error = y[judged] - level - (x[judged] - mean) @ weights
    spread = y[judged] - y[judged].mean(0)
    return 1 - np.square(error).sum() / np.square(spread).sum()


def plain_explained(x, y):
    """R² in the last quarter, and the strength that was chosen in the third."""
    x, y, count = np.asarray(x, float), np.asarray(y, float), len(x)
    first, third = range(count // 2), range(count // 2, 3 * count // 4)
    rest, last = range(3 * count // 4), range(3 * count // 4, count)
    scores = {10.0**k: plain_r2(x, y, first, third, 10.0**k) for k in range(-4, 5)}
    best = max(scores, key=scores.get)
    return plain_r2(x, y, rest, last, best), best


def related(count, features, noise, seed=0):
    """Features off the origin, of sizes from 1 to 100, and what they say of two numbers."""
    stream = seeded(seed)
    x = torch.randn(count, features, generator=stream) * torch.logspace(0, 2, features) + 5
    y = (x - 5) @ torch.randn(features, 2, generator=stream) / features
    y = y + noise * y.std() * torch.randn(count, 2, generator=stream) + torch.tensor([3.0, -2.0])
    return x, y.double()


def test_the_explained_share_is_that_of_a_primal_ridge_regression() -> None:
    """With more rows than numbers and fewer, in quarters that are no whole numbers, too."""
    chosen = set()
    for seed, (count, features, noise) in enumerate(
        [(80, 3, 0.3), (81, 3, 3.0), (82, 30, 1.0), (83, 100, 0.1), (44, 100, 1.0), (60, 40, 8.0)]
    ):
        x, y = related(count, features, noise, seed)
        expected, ridge = plain_explained(x, y)
        assert explained(x, y) == pytest.approx([expected], abs=1e-5)
        chosen.add(ridge)
    assert len(chosen) >= 4, "the strength was chosen, and not always the same"


def test_several_targets_have_a_strength_each() -> None:
    for features in (3, 100):  # fewer than rows, and more
        x, clear = related(80, features, 0.0, seed=1)
        _, vague = related(80, features, 8.0, seed=2)
        alone = [plain_explained(x, y) for y in (clear, vague)]
        assert alone[0][1] != alone[1][1], "they need different strengths"
        assert explained(x, clear, vague) == pytest.approx([one for one, _ in alone], abs=1e-5)


def test_an_exact_linear_relation_is_explained_in_full() -> None:
    x, y = related(200, 4, 0.0)
    assert explained(x, y) == pytest.approx([1], abs=1e-4)


def test_noise_explains_nothing_however_much_of_it_there_is() -> None:
    """A hundred numbers fit sixty rows exactly; rows that were not fitted tell."""
    for seed in range(4):
        _, y = related(80, 3, 1.0, seed)
        noise = torch.randn(80, 100, generator=seeded(50 + seed))
        assert -0.6 < explained(noise, y)[0] < 0.15


def test_what_holds_in_the_fitted_rows_alone_explains_nothing_in_the_others() -> None:
    """The relation is turned round in the last quarter; before, it is exact."""
    x, y = related(80, 3, 0.0)
    y = y - y.mean(0)
    y[60:] *= -1
    assert explained(x, y)[0] < -1


def test_a_memory_that_never_changes_explains_nothing() -> None:
    _, y = related(80, 3, 1.0)
    for level in (0.0, 7.0):
        (found,) = explained(torch.full((80, 5), level), y)
        spread = (y[60:] - y[60:].mean(0)).square().sum()
        assert found == pytest.approx(float(1 - (y[60:] - y[:60].mean(0)).square().sum() / spread))
        assert -1 < found <= 0


class Witness(Agent):
    """Walks at random. Its memory is what a function of the state of the maze says.

    It is shown the states by the maze itself, and keeps a record of all.
    """

    def __init__(self, env, states, recall) -> None:
        super().__init__(env.observation_space, env.action_space)
        self.states, self.recall, self.record = states, recall, []

    def initial_state(self, batch):
        return (torch.zeros(batch, 2),)

    def step(self, observation, state):
        self.record.append((observation, self.states[-1]))
        memory = self.recall(len(self.record) - 1, self.states)
        policy = Categorical(probs=torch.full((len(memory), 4), 0.25))
        return Outputs(policy, torch.zeros(len(memory)), (memory[:, :1], memory[:, 1:, None]))


def cells(places):
    """Row and column of places that are numbered with the wall around."""
    pairs = [divmod(number, SIZE + 2) for number in places.tolist()]
    return torch.tensor([[row - 1.0, column - 1.0] for row, column in pairs])


@pytest.fixture
def watched(monkeypatch):
    """A function that probes a witness, and gives it back with what was found."""

    def measure(recall, target="hidden"):
        states, real = [], Maze.observe
        monkeypatch.setattr(Maze, "observe", lambda env, s: states.append(s) or real(env, s))
        env, stream = Trial(Maze(SIZE, target=target)), seeded(3)
        agent = Witness(env, states, recall)
        found = probed(env, agent, env.sample_tasks(ROWS, stream), stream)
        monkeypatch.undo()
        return found, agent

    return measure


def test_every_share_is_that_of_what_was_seen_and_kept_at_that_step(watched) -> None:
    """Memories are a noisy place, which is another one at each step."""
    stream = seeded(8)

    def blurred(t, states):
        here, there = cells(states[-1].position), cells(states[-1].target)
        return here + 0.1 * there + torch.randn(here.shape, generator=stream)

    kept = []
    for target in ("hidden", "visible"):
        kept.clear()
        found, agent = watched(
            lambda t, states: kept.append(blurred(t, states)) or kept[-1], target
        )
        assert len(agent.record) == len(kept) == 100
        expected = {}
        for t in MOMENTS:
            seen, state = agent.record[t]
            assert seen.shape == (ROWS, 24 if target == "visible" else 15)
            goal, here = cells(state.target), cells(state.position)
            expected[f"r2_target_{t}"] = plain_explained(kept[t], goal)[0]
            expected[f"r2_target_view_{t}"] = plain_explained(seen, goal)[0]
            expected[f"r2_position_{t}"] = plain_explained(kept[t], here)[0]
        assert found == pytest.approx(expected, abs=1e-4)
        assert list(found) == list(expected)
        assert len({round(value, 6) for value in found.values()}) == 12


def test_a_memory_of_the_target_is_found_from_the_step_on_at_which_it_is_there(watched) -> None:
    """It comes after 25 steps; before, the memory holds nothing."""

    def told(t, states):
        goal = cells(states[-1].target)
        return goal if t >= 25 else torch.zeros_like(goal)

    found, _ = watched(told)
    assert -0.3 < found["r2_target_10"] <= 0
    for t in (25, 50, 99):
        assert found[f"r2_target_{t}"] == pytest.approx(1, abs=1e-6)
        assert found[f"r2_position_{t}"] < 0.6
        assert found[f"r2_target_view_{t}"] < 0.6


def test_a_memory_of_where_the_agent_stands_is_found_without_a_step_of_delay(watched) -> None:
    def before(t, states):
        return cells(states[-2].position) if t else torch.zeros(ROWS, 2)

    found, _ = watched(lambda t, states: cells(states[-1].position))
    late, _ = watched(before)
    for t in MOMENTS:
        assert found[f"r2_position_{t}"] == pytest.approx(1, abs=1e-6)
        assert found[f"r2_target_{t}"] < 0.6
        assert 0.3 < late[f"r2_position_{t}"] < 0.999


def test_an_empty_memory_tells_nothing(watched) -> None:
    found, _ = watched(lambda t, states: torch.zeros(ROWS, 2))
    for t in MOMENTS:
        assert -0.3 < found[f"r2_target_{t}"] <= 0
        assert -0.3 < found[f"r2_position_{t}"] <= 0


@pytest.mark.parametrize("variant", ["metods-linear-S1", "backpropamine", "gru", "srwm", "maml"])
def test_all_numbers_of_a_memory_are_read(variant) -> None:
    """Whatever its parts are, such as the number of the step of the agent that takes gradients."""
    config = Config(num_units=3, gru_units=3, maml_units=2, maml_horizon=30)
    agent, env = make_agent(config, variant), Trial(Maze(SIZE))
    tasks = env.sample_tasks(16, seeded(1))
    kept = []

    def keep(t, observation, outputs, action):
        kept.append(torch.cat([part.reshape(16, -1).float() for part in outputs.state], 1))

    cell = play(env, agent, tasks, seeded(2), greedy=False, watch=keep).info["cell"]
    found = probed(env, agent, tasks, seeded(2))
    assert len(found) == 12
    for t in MOMENTS:
        here = [divmod(number, SIZE) for number in cell[t - 1].tolist()]
        expected = plain_explained(kept[t], here)[0]
        assert found[f"r2_position_{t}"] == pytest.approx(expected, abs=1e-3)
