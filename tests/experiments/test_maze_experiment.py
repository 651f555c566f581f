"""The experiment on mazes: its measurements on scripted and on trained agents."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from plain_lives import rows_of
from plain_maze import PlainMaze
from torch.distributions import Categorical

from metarl_lib.algos import Agent
from metarl_lib.algos.actor_critic import Outputs
from metarl_lib.envs.maze import Maze
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments import base, maze
from metarl_lib.experiments.maze import Config, make_agent
from metarl_lib.experiments.maze_agents import ENVS
from metarl_lib.experiments.maze_readings import probed
from metarl_lib.experiments.meta_training import last_logged
from metarl_lib.oracles import maze as oracle
from metarl_lib.runs import Run, generator

pytestmark = pytest.mark.usefixtures("fast")

TRAINED = ("metods-linear-S2", "gru-visible", "backpropamine")
SMALL = Config(
    rows=4, segment=12, updates=2, epochs=1, encoder_units=4, num_units=4, gru_units=4,
    learning_rate=0.1, test_trials=12, variants=TRAINED, costly_seeds=6, thorough=False,
)  # fmt: skip
SEED, STEPS = 5, 100
SIZES = (8, 10, 6, 12, 14, 16)
MAIN = ["return", "success", "first_reward"]
EXACT = {"random": oracle.random_walk, "shortest-path": oracle.shortest_path}
SEARCHERS = [
    ("search", True, False), ("search-visible", True, True), ("search-anew", False, False),
    ("search-anew-visible", False, True),
]  # fmt: skip
OPERATED = ["return_late", "return_late_frozen", "return_late_wiped"]
WHOLE = ["return", "return_greedy", "return_without_reward", "return_10x10"]
QUICK = [*MAIN, *(f"{name}_10x10" for name in MAIN), *OPERATED, "parameters"]
THOROUGH = [
    *QUICK, *(f"return_{n}x{n}" for n in SIZES[2:]), "return_greedy", "return_without_reward",
    *(f"r2_{what}_{t}" for t in (10, 25, 50, 99) for what in ("target", "target_view", "position")),
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, its rows but what was logged, and what each searcher was given and earned."""
    searches, real = {}, oracle.search

    def search(free, target, steps, stream, *, remembers, visible):
        given = free, target, steps, stream.get_state()
        rewards = real(free, target, steps, stream, remembers=remembers, visible=visible)
        searches[free.shape[1], remembers, visible] = given, rewards
        return rewards

    folder = tmp_path_factory.mktemp("m") / "m"
    run = Run.create(folder, "maze", SMALL, scale="smoke", seed=SEED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "search", search)
        rows = maze.run(SMALL, run)
    logged = last_logged(run)
    assert rows[-len(logged) :] == logged
    return run, rows[: -len(logged)], searches


def tasks_of(seed, size, count):
    return Maze(size).sample_tasks(count, generator(seed, "evaluation", size), "test")


def plain_rows(seed, size, count, visible=False):
    pairs = zip(*(part.tolist() for part in tasks_of(seed, size, count)), strict=True)
    return [PlainMaze(*pair, STEPS, visible=visible) for pair in pairs]


def started(seed, size, count, visible=False):
    """The rows of a test where they begin, and the stream of all further draws."""
    rows = plain_rows(seed, size, count, visible)
    stream = generator(seed, "evaluation", 1000 + size)
    for row, u in zip(rows, torch.rand(count, generator=stream).tolist(), strict=True):
        row.start(row.jump(u))
    return rows, stream


@torch.no_grad()
def replay(
    agent, count, size=8, *, visible=False, greedy=False, blind=False, wiped=False, frozen=STEPS
):
    """The rewards of a test written out in Python's numbers, `[B][T]`."""
    rows, stream = started(SEED, size, count, visible)
    memory = fresh = agent.initial_state(count)
    seen, rewards = [row.observation() + [0.0] * 6 for row in rows], [[] for _ in rows]
    for t in range(STEPS):
        found = agent.step(torch.tensor(seen), fresh if wiped else memory)
        if t < frozen:
            memory = found.state
        scores = found.policy.probs
        if not greedy:
            scores = scores / torch.empty(count, 4).exponential_(generator=stream)
        actions, drawn = scores.argmax(-1).tolist(), torch.rand(count, generator=stream).tolist()
        for b, (row, action, u) in enumerate(zip(rows, actions, drawn, strict=True)):
            said = row.step(action, u)
            rewards[b].append(said.reward)
            chosen, reward = [float(action == a) for a in range(4)], 0.0 if blind else said.reward
            seen[b] = [*said.observation, *chosen, reward, float(said.terminated)]
    return rewards


def plain_earned(rewards, end=""):
    """Of lives `[B][T]`."""
    firsts = [next((t for t, reward in enumerate(life, 1) if reward), STEPS) for life in rewards]
    return {
        f"return{end}": np.mean([sum(life) for life in rewards]),
        f"success{end}": np.mean([any(life) for life in rewards]),
        f"first_reward{end}": np.mean(firsts),
    }


def mean_return(rewards, since=0):
    return np.mean([sum(life[since:]) for life in rewards])


def by_hand(agent, visible):
    """What a test finds but for the linear readers, counted in the trials written out."""

    def lived(size=8, **options):
        return replay(agent, 32, size, visible=visible, **options)

    rewards = lived()
    found = plain_earned(rewards) | plain_earned(lived(10), "_10x10")
    found |= {
        "return_late": mean_return(rewards, 50),
        "return_late_frozen": mean_return(lived(frozen=50), 50),
        "return_late_wiped": mean_return(lived(wiped=True), 50),
        "parameters": sum(len(p.flatten()) for p in agent.parameters()),
        "return_greedy": mean_return(lived(greedy=True)),
        "return_without_reward": mean_return(lived(blind=True)),
    }
    return found | {f"return_{n}x{n}": mean_return(lived(n)) for n in SIZES[2:]}


def test_a_test_is_the_trials_played_by_hand() -> None:
    """Of agents whose choices depend on what they see and remember."""
    config, every = replace(SMALL, test_trials=32, thorough=True), []
    for variant in ("metods-linear-S2", "gru", "gru-visible"):
        agent, visible = make_agent(config, variant, 2), "visible" in variant
        agent.policy_head.weight.data.mul_(400)
        rows = maze.test(config, SEED, agent, variant)
        found = {metric: value for (_, metric), value in rows_of(rows).items()}
        assert list(found) == THOROUGH
        every.append(by_hand(agent, visible))
        assert {m: v for m, v in found.items() if "r2" not in m} == pytest.approx(every[-1])
        env = Trial(Maze(8, target="visible" if visible else "hidden"))
        stream = generator(SEED, "evaluation", 3000)
        read = probed(env, agent, env.sample_tasks(64, stream, "test"), stream)
        assert {m: v for m, v in found.items() if "r2" in m} == pytest.approx(read, abs=1e-9)
    for names in (OPERATED, WHOLE):
        for one, other in combinations(names, 2):
            assert any(values[one] != values[other] for values in every), f"{one} is {other}"


def test_evaluating_repeats_the_tests_to_the_last_bit(finished) -> None:
    run, rows, _ = finished
    again = maze.evaluate(SMALL, run.seed, run.tensors())
    cheap = ("metods-linear-S2", "gru-visible")  # what is costly to train is left out
    assert list(rows_of(again)) == [(variant, metric) for variant in cheap for metric in MAIN]
    assert [row for row in rows if row in again] == again
    assert maze.evaluate(SMALL, run.seed + 1, run.tensors()) != again
    others = {name: tensor.roll(1, 0) for name, tensor in run.tensors().items()}
    assert maze.evaluate(SMALL, run.seed, others) != again


def test_a_second_run_of_a_finished_folder_learns_and_logs_nothing(finished, monkeypatch) -> None:
    run, rows, _ = finished
    tests = [row for row in rows if row["variant"] in TRAINED]
    monkeypatch.setattr("metarl_lib.experiments.meta_training.PPO", None)
    monkeypatch.setattr(maze, "by_hand", lambda config, seed: [])
    again = Run.resume(run.folder, "maze", SMALL)
    assert len(tests) == len(QUICK) * 3
    assert maze.run(SMALL, again) == tests + last_logged(run)
    assert again.metrics().equals(run.metrics())


def test_every_agent_learns_from_equally_many_steps(finished) -> None:
    run, rows, _ = finished
    assert {name: run.stage(name).step for name in TRAINED} == dict.fromkeys(TRAINED, 4 * 12 * 2)
    assert {row["budget"] for row in rows if row["variant"] in TRAINED} == {4 * 12 * 2}
    for variant in TRAINED:
        fresh = make_agent(SMALL, variant, run.seed).state_dict()
        trained = run.stage(variant).tensors
        assert fresh.keys() == trained.keys()
        moved = (trained["value_head.weight"] - fresh["value_head.weight"]).abs().max()
        assert 0 < moved <= 4 * SMALL.learning_rate  # four steps of Adam from its own start


class Scripted(Agent):
    """It chooses by a function of the number of rows, and has no use for its memory."""

    def __init__(self, choose) -> None:
        super().__init__(ENVS["hidden"].observation_space, ENVS["hidden"].action_space)
        self.choose = choose

    def initial_state(self, batch):
        return (torch.zeros(batch, 1),)

    def step(self, observation, state):
        action = torch.tensor(self.choose(len(observation)))
        policy = Categorical(probs=torch.nn.functional.one_hot(action, 4).float())
        return Outputs(policy, torch.zeros(len(action)), state)


class Guided(Scripted):
    """Is told all about the maze, and goes a shortest way."""

    def __init__(self, states) -> None:
        super().__init__(self.shortest)
        self.states, self.tasks = states, None

    def shortest(self, batch):
        now = self.states[-1]
        width = round(now.walls.shape[1] ** 0.5)
        if now.tasks is not self.tasks:
            self.tasks = now.tasks
            pairs = zip(now.tasks.open.tolist(), now.tasks.target.tolist(), strict=True)
            self.ways = [PlainMaze(*pair, STEPS).ways() for pair in pairs]
        places = [divmod(place, width) for place in now.position.tolist()]
        return [way[r - 1, c - 1] for way, (r, c) in zip(self.ways, places, strict=True)]


@pytest.fixture
def guided(monkeypatch):
    states, real = [], Maze.observe
    monkeypatch.setattr(Maze, "observe", lambda env, s: states.append(s) or real(env, s))
    return Guided(states)


def measured(agent, config, variant="gru", seed=1):
    rows = maze.test(config, seed, agent, variant)
    steps = config.rows * config.segment * config.updates
    assert {(row["variant"], row["budget"]) for row in rows} == {(variant, steps)}
    return {metric: value for (_, metric), value in rows_of(rows).items()}


@pytest.mark.parametrize("action", range(4))
def test_who_walks_one_way_finds_what_lies_on_it(action) -> None:
    config = Config(test_trials=200, thorough=False, rows=8, segment=9, updates=7)
    found = measured(Scripted(lambda batch: [action] * batch), config)
    assert list(found) == QUICK
    for size, end in ((8, ""), (10, "_10x10")):
        firsts = []
        for row in started(1, size, 200)[0]:
            here, steps = row.here, 0
            while here in row.others:
                here, steps = row.beside(here, action), steps + 1
            firsts.append(steps if here == row.target else None)
        share = np.mean([first is not None for first in firsts])
        assert found[f"success{end}"] == pytest.approx(share, abs=1e-6)
        mean = np.mean([first or STEPS for first in firsts])
        assert found[f"first_reward{end}"] == pytest.approx(mean, abs=1e-4)
        assert 10 * share <= found[f"return{end}"]
    # Without memory nothing can be taken from it; all rewards come early.
    assert found["return_late"] == found["return_late_frozen"] == found["return_late_wiped"] == 0
    assert found["parameters"] == 0


def test_who_is_told_the_way_earns_what_the_exact_walker_does(guided, monkeypatch) -> None:
    walks, walk, count = [], maze.walk, 40
    monkeypatch.setattr(maze, "walk", lambda *a, **k: walks.append(walk(*a, **k)) or walks[-1])
    found = measured(guided, Config(test_trials=count))
    assert list(found) == THOROUGH
    for size in SIZES:
        end, tasks = "" if size == 8 else f"_{size}x{size}", tasks_of(1, size, count)
        exact = oracle.shortest_path(tasks.open, tasks.target, STEPS).reward
        assert found[f"return{end}"] == pytest.approx(float(exact.mean()), rel=0.1)
    for size, end in ((8, ""), (10, "_10x10")):
        ways = []
        for row in started(1, size, count)[0]:
            best, here, steps = row.ways(), row.here, 0
            while here != row.target:
                here, steps = row.beside(here, best[here]), steps + 1
            ways.append(steps)
        assert found[f"success{end}"] == 1
        assert found[f"first_reward{end}"] == pytest.approx(np.mean(ways), abs=1e-4)
    assert found["return_late"] == found["return_late_frozen"] == found["return_late_wiped"]
    assert found["return_late"] == pytest.approx(mean_return(walks[0].T.tolist(), 50))
    assert found["return_late"] == pytest.approx(found["return"] / 2, rel=0.1)
    assert walks[0][50].any(), "the first step of the second half must count"
    assert found["return_without_reward"] == found["return"]
    assert found["return_greedy"] == pytest.approx(found["return"], rel=0.1)
    assert found["return_greedy"] != found["return"], "nothing is drawn for choices"


def test_agents_that_see_the_target_walk_in_the_same_mazes(guided) -> None:
    config = Config(test_trials=20, thorough=False)
    blind, seeing = (measured(guided, config, variant) for variant in ("gru", "gru-visible"))
    assert blind == seeing
    assert measured(guided, config, seed=2) != blind


def test_what_is_made_by_hand_walks_in_the_same_mazes(finished) -> None:
    _, rows, searches = finished
    rows = [row for row in rows if row["variant"] not in TRAINED]
    assert {row["budget"] for row in rows} == {1}
    expected, count = {}, 12
    for size in SIZES:
        end, tasks = "" if size == 8 else f"_{size}x{size}", tasks_of(SEED, size, count)
        for name, known in EXACT.items():
            for metric, values in zip(MAIN, known(*tasks, STEPS), strict=True):
                expected[name, f"{metric}{end}"] = sum(values.tolist()) / count
        start = generator(SEED, "evaluation", 2000 + size).get_state()
        for name, remembers, visible in SEARCHERS:
            (*given, steps, state), rewards = searches[size, remembers, visible]
            assert all(map(torch.equal, (*given, state), (*tasks, start)))
            assert steps == STEPS
            for metric, value in plain_earned(rewards.T.tolist(), end).items():
                expected[name, metric] = value
        least = []
        for row in plain_rows(SEED, size, count):
            times = [min(t, STEPS) for t in range(1, len(row.open))]
            least.append(sum(times) / len(times))
        expected["bound", f"first_reward{end}"] = np.mean(least)
    found = rows_of(rows)
    assert found == pytest.approx(expected, abs=1e-4)
    order = "random", "search-anew", "search", "search-visible", "shortest-path"
    returns = [found[name, "return"] for name in order]
    assert returns == sorted(returns)
    assert found["search", "first_reward"] == found["search-anew", "first_reward"]


def test_a_test_that_is_not_thorough_is_the_beginning_of_one(finished) -> None:
    run, rows, _ = finished
    agent = maze.agent_of(SMALL, run.tensors(), "gru-visible")
    long = maze.test(replace(SMALL, thorough=True), SEED, agent, "gru-visible")
    assert [row["metric"] for row in long] == THOROUGH
    assert long[: len(QUICK)] == [row for row in rows if row["variant"] == "gru-visible"]


def test_a_thorough_test_is_brief_with_some(finished) -> None:
    run, _, _ = finished
    config = replace(SMALL, thorough=True, brief=("gru-visible",), costly=())
    agent = maze.agent_of(SMALL, run.tensors(), "gru-visible")
    assert [r["metric"] for r in maze.test(config, SEED, agent, "gru-visible")] == QUICK
    assert {r["variant"] for r in maze.evaluate(config, SEED, run.tensors())} == {
        "metods-linear-S2", "backpropamine"
    }  # fmt: skip


def test_the_orders_are_differences_of_those_that_are_trained() -> None:
    earned = {"metods-linear-S4": 5.0, "gru": 3.0, "metods-linear-S1": 7.5, "srwm": 1.0}
    rows = [
        base.row(name, metric, value + shift, 40)
        for name, value in earned.items()
        for metric, shift in (("return", 0.0), ("return_10x10", len(name)), ("success", 0.0))
    ]
    found = {(r["variant"], r["metric"]): r["value"] for r in maze.differences(rows)}
    assert found == {
        ("metods-linear-S4", "return_minus_gru"): 2.0,
        ("metods-linear-S4", "return_10x10_minus_gru"): 2.0 + len("metods-linear-S4") - len("gru"),
        ("metods-linear-S4", "return_minus_metods-linear-S1"): -2.5,
        ("metods-linear-S4", "return_10x10_minus_metods-linear-S1"): -2.5,
    }
