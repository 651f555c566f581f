"""The experiment on Harlow's task: its measurements on scripted and on trained agents."""

import numpy as np
import pytest
import torch
from plain_lives import rows_of, seeded
from torch.distributions import Categorical

from metarl_lib.algos import ActorCritic
from metarl_lib.algos.actor_critic import Outputs
from metarl_lib.cores import GRU, LSTM, Backpropamine, MetODS
from metarl_lib.envs.harlow_strategies import Memory, exact, learn_from_wins, threshold
from metarl_lib.experiments import harlow
from metarl_lib.experiments.harlow import CORES, ENV, Config, make_agent
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import last_logged
from metarl_lib.runs import Run, generator

TRAINED = ("metods-linear-S4", "gru", "recurrent-ppo")
SMALL = Config(
    rows=4, segment=12, updates=2, epochs=1, num_units=3, gru_units=4, test_trials=6,
    variants=TRAINED, costly_seeds=6,
)  # fmt: skip
STEPS = 80
SIGHT, REWARD = 9, 11
"""Cells in sight, and where the reward stands behind them and the last action."""


@pytest.fixture(autouse=True, scope="module")
def _short(fast):
    """Trials are cut off after 80 steps, which leaves nobody time who does not know the way."""
    fast.setattr(harlow.TASK, "max_steps", STEPS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run.create(tmp_path_factory.mktemp("h") / "h", "harlow", SMALL, scale="smoke", seed=5)
    rows, logged = harlow.run(SMALL, run), last_logged(run)
    assert rows[-len(logged) :] == logged
    return run, rows[: -len(logged)]


class Scripted:
    """A strategy written by hand in place of a trained agent."""

    def __init__(self, strategy) -> None:
        self.strategy = strategy

    def initial_state(self, batch):
        return torch.zeros(batch), torch.zeros(batch)

    def step(self, observation, state):
        seen, reward = observation[:, :SIGHT], observation[:, REWARD]
        action, memory = self.strategy(seen, reward, Memory(*state), seeded())
        policy = Categorical(probs=torch.nn.functional.one_hot(action, 2).float())
        return Outputs(policy, torch.zeros(len(action)), tuple(memory))

    def clip(self, action):
        return action


def measured(strategy):
    config = Config(test_trials=300, rows=8, segment=9, updates=7)
    rows = harlow.test(config, 1, Scripted(strategy), "scripted")
    assert {(row["variant"], row["budget"]) for row in rows} == {("scripted", 8 * 9 * 7)}
    return {metric: value for (_, metric), value in rows_of(rows).items()}


def test_the_exact_strategy_is_right_from_the_second_presentation_on() -> None:
    found = measured(exact)
    shares = [found[f"correct_{k}"] for k in range(1, 7)]
    assert shares[1:] == [1.0] * 5
    assert found["return"] == pytest.approx(6 * 0.2 + sum(2 * s - 1 for s in shares), abs=1e-4)
    error = 3 / 300**0.5
    assert shares[0] == pytest.approx(0.5, abs=error / 2)
    assert found["return_sampled"] == pytest.approx(6.2, abs=error)
    assert found["correct_same_side"] == found["correct_other_side"] == 1
    # Without memory, or reward, it goes left each time, which pays as often as not.
    for name in ("return_wiped", "return_without_reward"):
        assert found[name] == pytest.approx(1.2, abs=error * 6**0.5)
    assert "parameters" not in found


def test_the_threshold_strategy_tells_only_objects_on_different_sides_apart() -> None:
    found = measured(threshold)
    assert found["correct_other_side"] == 1
    assert found["correct_same_side"] == pytest.approx(0.5, abs=3 * 0.5 / (150 * 5) ** 0.5)
    assert found["return"] == pytest.approx(3.7, abs=0.6)


def test_who_learns_from_wins_is_right_after_them_alone() -> None:
    found = measured(learn_from_wins)
    error = 3 * 0.5 / (150 * 5) ** 0.5
    assert found["correct_after_right"] == 1
    assert found["correct_after_wrong"] == pytest.approx(0.5, abs=error)
    for side in ("same", "other"):
        assert found[f"correct_{side}_side"] == pytest.approx(0.75, abs=3 * 0.5 / 150**0.5)
    assert found["return"] == pytest.approx(3.7, abs=0.6)


def where_things_are(task, position, shown, side):
    line = [0.0] * 17
    if shown:
        line[8 + 3 * side], line[8 - 3 * side] = task
    else:
        line[8] = 1.0
    return [line[(position + d) % 17] for d in range(-4, 5)]


@torch.no_grad()
def replay(agent, seed, *, greedy=True, wiped=False, blind=False):
    """A test written out, a row's line in Python's numbers: rewards, choices, and the tasks.

    Choices are lists of the kind right or wrong, one for each presentation that was reached.
    """
    count = SMALL.test_trials
    drawn = ENV.sample_tasks(count, generator(seed, "evaluation", 0), "test")
    tasks = list(zip(drawn.rewarded.tolist(), drawn.other.tolist(), strict=True))
    stream = generator(seed, "evaluation", 1)
    shifts = torch.randint(-3, 3, (count,), generator=stream).tolist()
    lines = [[8 - (shift or 1), False, 1] for shift in shifts]
    added, choices = [[0, 0, 0, 0] for _ in tasks], [[] for _ in tasks]
    returns, over = [0.0] * count, [False] * count
    memory = agent.initial_state(count)
    for t in range(STEPS):
        seen = [
            where_things_are(task, *line) + more
            for task, line, more in zip(tasks, lines, added, strict=True)
        ]
        found = agent.step(torch.tensor(seen), agent.initial_state(count) if wiped else memory)
        memory, probs = found.state, found.policy.probs
        if not greedy:
            probs = probs / torch.empty(count, 2).exponential_(generator=stream)
        actions = probs.argmax(-1).tolist()
        coins = torch.randint(2, (count,), generator=stream).tolist()
        for b, action in enumerate(actions):
            line, reward = lines[b], 0.0
            line[0] = (line[0] + (1 if action else -1)) % 17
            if not line[1] and line[0] == 8:
                reward, line[1], line[2] = 0.2, True, 1 if coins[b] else -1
            elif line[1] and line[0] in (5, 11):
                right = line[0] == 8 + 3 * line[2]
                reward, line[1] = (1.0 if right else -1.0), False
                if not over[b]:
                    choices[b].append(right)
            returns[b] += 0.0 if over[b] else reward
            over[b] = over[b] or len(choices[b]) == 6 or t == STEPS - 1
            added[b] = [int(action == 0), int(action == 1), 0.0 if blind else reward, 0]
        if all(over):
            break
    return np.mean(returns), choices, tasks


@pytest.mark.parametrize("variant", TRAINED)
def test_a_test_is_the_trials_played_by_hand(finished, variant) -> None:
    run, rows = finished
    agent = harlow.agent_of(SMALL, run.tensors(), variant)
    value, choices, tasks = replay(agent, run.seed)
    expected = {
        "return": value,
        "return_sampled": replay(agent, run.seed, greedy=False)[0],
        "return_wiped": replay(agent, run.seed, wiped=True)[0],
        "return_without_reward": replay(agent, run.seed, blind=True)[0],
    }
    right = [[len(row) > k and row[k] for k in range(6)] for row in choices]
    for k in range(6):
        expected[f"correct_{k + 1}"] = sum(row[k] for row in right) / len(right)
    for name, wanted in (("same", True), ("other", False)):
        part = [
            row[1:]
            for row, (a, b) in zip(right, tasks, strict=True)
            if ((a > 0.5) == (b > 0.5)) == wanted
        ]
        expected[f"correct_{name}_side"] = np.mean(part)
    for name, wanted in (("right", True), ("wrong", False)):
        part = [row[1:] for row in right if row[0] == wanted]
        expected[f"correct_after_{name}"] = np.mean(part)
    if variant != "recurrent-ppo":
        expected["parameters"] = parameters_of(make_agent(SMALL, variant))
    found = {m: value for (name, m), value in rows_of(rows).items() if name == variant}
    assert found == pytest.approx(expected, abs=1e-5)


def test_evaluating_repeats_the_tests_to_the_last_bit(finished) -> None:
    run, rows = finished
    tests = [row for row in rows if row["variant"] in TRAINED]
    assert len(tests) == 15 + 15 + 14
    assert {row["budget"] for row in tests} == {4 * 12 * 2}
    again = harlow.evaluate(SMALL, run.seed, run.tensors())
    assert [(row["variant"], row["metric"]) for row in again] == [
        (variant, metric)
        for variant in ("metods-linear-S4", "gru")  # what is costly to train is left out
        for metric in (
            "return",
            *(f"correct_{k}" for k in (*range(1, 7), "same_side", "other_side")),
            "correct_after_right",
            "correct_after_wrong",
        )
    ]
    assert [row for row in tests if row in again] == again
    assert harlow.evaluate(SMALL, run.seed + 1, run.tensors()) != again


def test_a_second_run_of_a_finished_folder_learns_and_logs_nothing(finished, monkeypatch) -> None:
    run, rows = finished
    monkeypatch.setattr("metarl_lib.experiments.meta_training.PPO", None)
    monkeypatch.setattr("metarl_lib.experiments.sb3_recurrent.learn_finite", None)
    again = Run.resume(run.folder, "harlow", SMALL)
    assert harlow.run(SMALL, again) == rows + last_logged(run)
    assert again.metrics().equals(run.metrics())


def test_every_agent_learns_from_equally_many_steps(finished) -> None:
    run, _ = finished
    assert {name: run.stage(name).step for name in TRAINED} == dict.fromkeys(TRAINED, 4 * 12 * 2)
    fresh = make_agent(SMALL, "gru", run.seed).state_dict()
    trained = run.stage("gru").tensors
    assert fresh.keys() == trained.keys()
    moved = (trained["value_head.weight"] - fresh["value_head.weight"]).abs().max()
    assert 0 < moved <= 4 * SMALL.learning_rate  # two steps of Adam from its own start


def test_the_scripted_strategies_play_the_same_trials() -> None:
    rows = harlow.strategies(Config(test_trials=300), 1)
    assert {(row["metric"], row["budget"]) for row in rows} == {("return", 300)}
    found = {row["variant"]: row["value"] for row in rows}
    assert list(found) == [
        "exact", "threshold", "learn-from-wins", "never-learn", "random-walk"
    ]  # fmt: skip
    assert found["exact"] == pytest.approx(6.2, abs=0.2)
    assert found["threshold"] == pytest.approx(3.7, abs=0.6)
    assert found["learn-from-wins"] == pytest.approx(3.7, abs=0.6)
    assert found["never-learn"] == pytest.approx(1.2, abs=0.5)
    assert found["random-walk"] < found["never-learn"] + 0.5


def test_test_trials_show_pairs_that_training_never_shows() -> None:
    """The sum of the two objects is a multiple of 5 in the test, and never in training."""
    _, tasks = harlow._trial(Config(test_trials=50), 0, Scripted(exact))
    train = ENV.sample_tasks(200, seeded())
    for pair, wanted in ((tasks, True), (train, False)):
        total = (1000 * (pair.rewarded + pair.other)).round().long()
        assert set((total % 5 == 0).tolist()) == {wanted}


@pytest.mark.parametrize("units", [3, 14, 20])
def test_the_matched_gru_has_the_number_of_parameters_nearest_to_metods(units) -> None:
    config = Config(num_units=units)
    target = parameters_of(make_agent(config, "metods-linear-S4"))
    found = make_agent(config, "gru-matched")

    def count(u):
        return 3 * u * (13 + u + 2) + 3 * (u + 1)

    assert parameters_of(found) == count(found.core.num_units)
    nearest = min(range(1, 300), key=lambda u: abs(count(u) - target))
    assert found.core.num_units == nearest
    assert isinstance(found.core, GRU)


def test_each_variant_has_its_memory() -> None:
    config = Config(num_units=5, gru_units=6)
    metods = {
        "metods-linear-S4": (4, "linear", "matrix"),
        "metods-linear-S1": (1, "linear", "matrix"),
        "metods-linear-S4-no-alpha": (4, "linear", "scalar"),
        "metods-vanilla-S4": (4, "vanilla", "matrix"),
    }
    gated = {"gru-state-matched": (GRU, 25), "gru": (GRU, 6), "lstm": (LSTM, 6),
             "recurrent-ppo": (LSTM, 6), "backpropamine": (Backpropamine, 5)}  # fmt: skip
    assert set(CORES) == {*metods, *gated, "gru-matched"}
    for variant, wanted in metods.items():
        core = make_agent(config, variant).core
        assert isinstance(core, MetODS)
        assert (core.depth, core.write, core.plasticity, core.num_units) == (*wanted, 5)
    for variant, (kind, size) in gated.items():
        core = make_agent(config, variant).core
        assert (type(core), core.num_units) == (kind, size)
    one, two = (make_agent(config, "gru", seed).value_head.weight for seed in (0, 1))
    assert not torch.equal(one, two)


def test_compiling_is_passed_on_but_tests_do_without(finished, monkeypatch) -> None:
    asked, real = [], MetODS.__init__

    def made(core, *arguments, compile=False, **options):
        asked.append(compile)
        real(core, *arguments, **options)

    run, _ = finished
    monkeypatch.setattr(MetODS, "__init__", made)
    config = Config(num_units=3, gru_units=4, compile=True)
    make_agent(config, "metods-linear-S4")
    agent = harlow.agent_of(config, run.tensors(), "metods-linear-S4")
    assert isinstance(agent, ActorCritic)
    assert asked == [True, False]


def test_only_the_first_seeds_train_what_is_costly(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(harlow, "train_agent", lambda stage, *rest: trained.append(stage.name))
    monkeypatch.setattr(harlow, "test", lambda config, seed, agent, variant: [variant])
    monkeypatch.setattr(harlow, "agent_of", lambda config, tensors, variant: None)
    config = Config(
        num_units=3, gru_units=4, test_trials=6, variants=("metods-vanilla-S4", "gru"),
        costly_seeds=2,
    )  # fmt: skip
    for seed, wanted in ((1, ["metods-vanilla-S4", "gru"]), (2, ["gru"])):
        trained: list[str] = []
        run = Run.create(tmp_path / str(seed), "harlow", config, scale="smoke", seed=seed)
        rows = harlow.run(config, run)
        assert trained == wanted
        assert rows[len(harlow.STRATEGIES) :] == wanted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variants": ("gru", "metods")}, "variants='metods' is unknown: choose one of"),
        ({"num_units": 0}, "num_units=0: must be greater than 0"),
        ({"gru_units": 0}, "gru_units=0: must be greater than 0"),
        ({"costly": ("lstm", "gru-400")}, "costly='gru-400' is unknown: choose one of"),
        ({"costly_seeds": 0}, "costly_seeds=0: must be greater than 0"),
        ({"test_trials": 0}, "test_trials=0: must be greater than 0"),
        ({"minibatches": 3}, "minibatches=3: must divide the 4 rows"),
        ({"discount": 1.1}, "discount=1.1: must lie between 0 and 1"),
        (
            {"segment": 1, "minibatches": 4},
            "rows=4, segment=1, minibatches=4: a minibatch of PPO must have at least 2 steps",
        ),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        harlow.EXPERIMENT.config("smoke", options)
    assert "\n" not in str(refusal.value)
