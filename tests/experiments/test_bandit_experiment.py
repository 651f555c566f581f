"""The experiment on bandits: what it measures, pull by pull, and which agent starts as which."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import jaxtyping
import numpy as np
import pytest
import torch
from full_speed import full_speed
from plain_lives import rows_of, seeded
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from metarl_lib import oracles
from metarl_lib.experiments import bandit
from metarl_lib.experiments.bandit import (
    Config,
    arms_and_pulls,
    pairs,
    settings,
    started_as,
    trials,
)
from metarl_lib.experiments.meta_training import Played, last_logged
from metarl_lib.oracles import FiniteHorizonGittins
from metarl_lib.runs import Run, generator

SMALL = Config(
    rows=4, minibatches=2, updates=3, updates_100=2, epochs=1, units=4, learning_rate=0.05,
    cells=("3x12", "2x4", "3x4"), lstm_cells=("3x4",), test_trials=30,
)  # fmt: skip
ORDER = ["gru-k2-n4", "gru-k3-n4", "gru-k3-n12", "lstm-k3-n4"]
PROBED = 20


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, its rows, and the parameters that each agent was given to training."""
    run = Run.create(tmp_path_factory.mktemp("b") / "b", "bandit", SMALL, scale="smoke", seed=3)
    starts, real = {}, bandit.train_agent

    def train(stage, env, model, own, seed, index):
        tensors = {name: t.clone() for name, t in model.state_dict().items()}
        starts[stage.name] = (tensors, env.env, own, (seed, index))
        return real(stage, env, model, own, seed, index)

    with full_speed() as patch:
        patch.setattr(bandit, "EXACT", {(2, 4), (3, 4)})
        patch.setattr(bandit, "PROBED", PROBED)
        patch.setattr(bandit, "train_agent", train)
        rows = bandit.run(SMALL, run)
    logged = last_logged(run)
    assert rows[-len(logged) :] == logged
    return run, rows[: -len(logged)], starts


@pytest.mark.parametrize(
    "cell", ["5", "5x", "x5", "0x10", "5x0", "1x10", "5x1", "5x10x2", "ax3", "5X10", "-5x9", "²x9"]
)
def test_a_cell_that_is_none_is_refused(cell) -> None:
    with pytest.raises(ValueError, match=f"cell '{cell}': write arms x pulls, such as 5x100"):
        arms_and_pulls(cell)


def test_more_pulls_than_have_an_index_are_refused() -> None:
    assert arms_and_pulls("5x1000") == (5, 1000)
    with pytest.raises(ValueError, match="cell '5x1001': at most 1000 pulls have a Gittins index"):
        arms_and_pulls("5x1001")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cells": ("5x10", "5")}, "cell '5': write"),
        ({"lstm_cells": ("5",)}, "cell '5': write"),
        ({"cells": ("5x10", "2x10", "05x10")}, "cells=5x10,2x10,05x10: give each cell once"),
        ({"lstm_cells": ("5x10", "5x10")}, "lstm_cells=5x10,5x10: give each cell once"),
        ({"test_trials": 3}, "test_trials=3: must be at least 4"),
        ({"agents": ("gru", "rnn")}, "rnn"),
        ({"units": 0}, "units=0: must be greater than 0"),
        ({"updates_100": 0}, "updates_100=0: must be greater than 0"),
        ({"updates_500": 0}, "updates_500=0: must be greater than 0"),
        ({"test_trials": 0}, "test_trials=0: must be greater than 0"),
        ({"value_unit": 0.0}, "value_unit=0.0: must be greater than 0"),
        ({"minibatches_500": 0}, "minibatches_500=0: must be greater than 0"),
        ({"discount_500": 1.5}, "in trials of 500 pulls, discount=1.5: must lie between 0 and 1"),
        ({"minibatches": 3}, "minibatches=3: must divide"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        bandit.EXPERIMENT.config("smoke", options)
    assert "\n" not in str(refusal.value)


def test_longer_trials_have_settings_of_their_own() -> None:
    """A segment is whole trials, of about as many pulls."""
    config = Config(updates=70, updates_100=30, updates_500=20, entropy=0.3, entropy_end=0.1)
    short = replace(config, segment=10, rows=2560, entropy=0.06, entropy_end=0.02)
    long = replace(config, segment=100, updates=30, entropy=0.15, entropy_end=0.05)
    assert settings(config, "5x10") == short
    assert settings(config, "5x4") == replace(short, segment=4, rows=6400)
    assert settings(config, "2x100") == long
    assert settings(config, "2x11") == replace(long, segment=11, rows=2320)
    longest = replace(
        long, segment=500, updates=20, rows=50, epochs=4, minibatches=2, learning_rate=5e-4,
        discount=0.99, entropy=0.0125,
    )  # fmt: skip
    assert settings(config, "2x500") == longest
    assert settings(replace(config, minibatches_500=25, epochs_500=3), "2x101") == replace(
        longest, segment=101, rows=250, minibatches=25, epochs=3, minibatches_500=25, epochs_500=3
    )
    few = replace(config, rows=4, minibatches=4, minibatches_500=4)
    assert settings(few, "2x500").rows == 4
    assert settings(few, "2x90").rows == 4


def test_values_count_in_the_unit_that_is_asked_for() -> None:
    assert bandit.make_agent(replace(SMALL, value_unit=7.5), "gru", "3x4").value_unit == 7.5


def test_shorter_trials_come_first_and_longer_ones_build_on_them() -> None:
    config = Config(cells=("5x500", "5x10", "2x100", "5x100"), lstm_cells=("5x100",))
    assert pairs(config) == [
        ("gru", "5x10", "gru-k5-n10"),
        ("gru", "2x100", "gru-k2-n100"),
        ("gru", "5x100", "gru-k5-n100"),
        ("gru", "5x500", "gru-k5-n500"),
        ("lstm", "5x100", "lstm-k5-n100"),
    ]
    assert started_as(config, "gru", "5x500") == "5x100"
    assert started_as(config, "gru", "5x100") == "5x10"
    assert started_as(config, "gru", "5x10") is None
    assert started_as(config, "gru", "2x100") is None
    assert started_as(config, "lstm", "5x100") is None


def test_more_than_ten_arms_build_on_fewer_with_as_many_pulls() -> None:
    config = Config(
        cells=("50x10", "50x100", "10x10", "5x10", "2x100", "50x500", "11x500"), lstm_cells=()
    )
    assert [cell for _, cell, _ in pairs(config)] == [
        "5x10", "10x10", "50x10", "2x100", "50x100", "11x500", "50x500",
    ]  # fmt: skip
    assert started_as(config, "gru", "50x10") == "10x10"
    assert started_as(config, "gru", "50x100") == "2x100"
    assert started_as(config, "gru", "50x500") == "11x500"
    assert started_as(config, "gru", "11x500") is None
    assert started_as(config, "gru", "10x10") is None
    alone = replace(config, cells=("50x10", "50x100"))
    assert started_as(alone, "gru", "50x100") == "50x10"
    per_cell = config.rows * 100 * config.updates
    assert bandit.steps(config, "gru", "10x10") == per_cell
    assert bandit.steps(config, "gru", "50x10") == 2 * per_cell


@pytest.mark.parametrize("agent", ["gru", "lstm"])
def test_a_widened_agent_plays_the_first_arms_as_before_and_seldom_the_others(agent) -> None:
    config = replace(SMALL, cells=("3x4", "5x4"), lstm_cells=("3x4", "5x4"))
    narrow = bandit.make_agent(config, agent, "3x4", 1)
    with torch.no_grad():
        narrow.policy_head.weight.copy_(torch.randn(3, 4, generator=seeded(4)))
    wide = bandit.make_agent(config, agent, "5x4", 2)
    wide.load_state_dict(bandit.widened(narrow.state_dict(), wide))
    seen = torch.rand(6, 10, 6, generator=seeded(5))
    seen_by_wide = torch.cat([seen[..., :4], torch.rand(6, 10, 2), seen[..., 4:]], -1)
    with torch.no_grad():
        first = narrow(seen, narrow.initial_state(10))
        second = wide(seen_by_wide, wide.initial_state(10))
    assert torch.equal(first.values, second.values)
    ratios = first.policy.logits - second.policy.logits[..., :3]
    torch.testing.assert_close(ratios, ratios[..., :1].expand_as(ratios))  # one factor for all
    others = second.policy.logits[..., 3:] - second.policy.logits[..., :1]
    own = narrow.policy_head(narrow.core.scan(seen, narrow.initial_state(10))[0])
    torch.testing.assert_close(others, (-2.0 - own[..., :1]).expand_as(others))
    same = bandit.widened(narrow.state_dict(), narrow)
    assert all(torch.equal(same[name], t) for name, t in narrow.state_dict().items())


def test_an_agent_starts_as_that_of_the_next_shorter_trial(finished) -> None:
    run, _, starts = finished
    assert list(starts) == ORDER
    for index, (agent, cell, variant) in enumerate(pairs(SMALL)):
        tensors, env, own, streams = starts[variant]
        assert (env.arms, env.steps) == arms_and_pulls(cell)
        assert (own, streams) == (settings(SMALL, cell), (3, index))
        if variant == "gru-k3-n12":
            expected = run.stage("gru-k3-n4").tensors
        else:
            expected = bandit.make_agent(SMALL, agent, cell, 3, index).state_dict()
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], t) for name, t in expected.items())
        trained = run.stage(variant).tensors
        assert not torch.equal(trained["policy_head.weight"], tensors["policy_head.weight"])


def random_play(n=9, rows=40, arms=3, seed=1):
    actions = torch.randint(arms, (n, rows), generator=seeded(seed))
    actions[:, 0] = arms - 1
    actions[0, 0] = 0
    rewards = (torch.rand(n, rows, generator=seeded(seed + 1)) < 0.6).float()
    return Played(rewards, torch.ones(n, rows, dtype=torch.bool), actions, {})


def test_arms_that_were_tried_are_counted() -> None:
    played = random_play()
    found = bandit.tried(played)
    for b, pulled in enumerate(played.actions.T.tolist()):
        assert found[:, b].tolist() == [len(set(pulled[: t + 1])) for t in range(9)]


def means_before(actions, rewards, arms):
    """The posterior mean of each arm before each pull but the first, in plain counts."""
    n, rows = len(actions), len(actions[0])
    found = np.zeros((n - 1, rows, arms))
    for b in range(rows):
        for t in range(1, n):
            for arm in range(arms):
                paid = [rewards[s][b] for s in range(t) if actions[s][b] == arm]
                found[t - 1, b, arm] = (sum(paid) + 1) / (len(paid) + 2)
    return found


def plain_r2(actions, rewards, memory, arms):
    """The same by scikit-learn."""
    half = memory.shape[1] // 2
    x, y = memory[1:].astype(float), means_before(actions, rewards, arms)
    x_fit, x_judge = (part.reshape(-1, x.shape[-1]) for part in (x[:, :half], x[:, half:]))
    y_fit, y_judge = (part.reshape(-1, arms) for part in (y[:, :half], y[:, half:]))
    fit = LinearRegression().fit(x_fit, y_fit)
    return r2_score(y_judge, fit.predict(x_judge), multioutput="variance_weighted")


def test_a_memory_that_holds_the_posterior_means_explains_all_of_them() -> None:
    played = random_play()
    means = means_before(played.actions.tolist(), played.rewards.tolist(), 3)
    mixed = means @ np.array([[1.0, 0.3, 0.0], [0.2, -1.0, 0.5], [0.0, 0.4, 2.0]]) - 3
    memory = torch.cat([torch.full((1, 40, 3), 9.0), torch.tensor(mixed).float()])
    assert bandit.posterior_r2(played, memory) == pytest.approx(1, abs=1e-5)
    assert bandit.posterior_r2(played, memory[:, :30]) == pytest.approx(1, abs=1e-5)
    late = torch.cat([memory[1:], memory[-1:]])  # a pull ahead: all that is read is displaced
    assert bandit.posterior_r2(played, late) < 0.99


def test_how_much_a_memory_explains_is_what_scikit_learn_finds() -> None:
    played = random_play(rows=60)
    actions, rewards = played.actions.tolist(), played.rewards.tolist()
    means = torch.zeros(9, 60, 3)
    means[1:] = torch.tensor(means_before(actions, rewards, 3))
    noise = torch.randn(9, 60, 4, generator=seeded(5))
    assert abs(bandit.posterior_r2(played, noise)) < 0.1
    noisy = means @ torch.randn(3, 4, generator=seeded(6)) + 0.2 * noise + 1
    for memory in (noise, noisy, noisy[:, :41]):
        cut = [[step[: memory.shape[1]] for step in data] for data in (actions, rewards)]
        found = bandit.posterior_r2(played, memory)
        assert found == pytest.approx(plain_r2(*cut, memory.numpy(), 3), abs=1e-4)
    assert 0.2 < bandit.posterior_r2(played, noisy) < 0.95


def replay(run, agent, cell, variant, place, greedy):
    """A test written out: rewards, regrets, actions and memories, pull by pull."""
    arms, pulls = arms_and_pulls(cell)
    model = bandit.make_agent(SMALL, agent, cell)
    model.load_state_dict(run.stage(variant).tensors)
    p = bandit.unseen(SMALL, run.seed, cell).means
    stream, memory = generator(run.seed, "evaluation", place), model.initial_state(30)
    seen = torch.zeros(30, arms + 3)
    rewards, regrets, actions, memories = [], [], [], []
    for t in range(pulls):
        y, memory = model.core.step(seen, memory)
        logits = y @ model.policy_head.weight.T + model.policy_head.bias
        if greedy:
            action = logits.argmax(-1)
        else:
            clocks = torch.empty(30, arms).exponential_(generator=stream)
            action = (logits.softmax(-1) / clocks).argmax(-1)
        chance = torch.rand(30, generator=stream)
        chosen = torch.stack([row[a] for row, a in zip(p, action, strict=True)])
        reward = (chance < chosen).float()
        seen = torch.zeros(30, arms + 3)
        for b in range(30):
            seen[b, 1 + action[b]] = 1
        seen[:, arms + 1] = reward
        seen[:, arms + 2] = float(t == pulls - 1)
        rewards.append(reward.tolist())
        regrets.append((p.max(1).values - chosen).tolist())
        actions.append(action.tolist())
        memories.append(memory[0].numpy())
    return np.array(rewards), np.array(regrets), actions, np.array(memories)


@torch.no_grad()
def test_a_test_is_the_trials_played_by_hand(finished) -> None:
    run, rows, _ = finished
    rows, logged = rows_of(rows), run.metrics()
    for agent, cell, variant in pairs(SMALL):
        arms, pulls = arms_and_pulls(cell)
        rewards, regrets, actions, memories = replay(run, agent, cell, variant, 1, True)
        sampled, *_ = replay(run, agent, cell, variant, 2, False)
        tried = [[len({a[b] for a in actions[: t + 1]}) for b in range(30)] for t in range(pulls)]
        size = {"gru": 3, "lstm": 4}[agent] * 4 * (arms + 3 + 4 + 2) + 5 * (arms + 1)
        used = max(max(a) for a in actions) + 1
        cut = [[step[:PROBED] for step in data] for data in (actions, rewards.tolist())]
        expected = {
            "return": rewards.sum(0).mean(),
            "return_sampled": sampled.sum(0).mean(),
            "regret": regrets.sum(0).mean(),
            "arms_tried": np.mean(tried[-1]),
            "posterior_r2": plain_r2(*cut, memories[:, :PROBED], used),
            "parameters": size,
        }
        found = {metric: value for (name, metric), value in rows.items() if name == variant}
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
        curves = {"regret_so_far": np.cumsum(regrets, 0).mean(1), "tried_so_far": np.mean(tried, 1)}
        for name, curve in curves.items():
            part = logged[logged["name"] == f"{variant}/{name}"]
            assert part["step"].tolist() == list(range(1, pulls + 1))
            assert part["value"].tolist() == pytest.approx(curve.tolist(), rel=1e-5)


def test_the_arms_tried_up_to_the_last_pull_count(finished, monkeypatch) -> None:
    run, variant = finished[0], "gru-k3-n4"
    tried = torch.arange(4.0)[:, None].expand(4, 30)
    monkeypatch.setattr(bandit, "tried", lambda played: tried)
    rows = bandit.test(SMALL, run.seed, run.tensors(), "gru", "3x4", variant, None)
    assert rows_of(rows)[variant, "arms_tried"] == 3


def test_evaluating_repeats_the_tests_to_the_last_bit(finished, monkeypatch) -> None:
    run, rows, _ = finished
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # for speed
    monkeypatch.setattr(bandit, "PROBED", PROBED)
    tests = [row for row in rows if row["variant"] in ORDER]
    assert len(tests) == 6 * 4
    assert bandit.evaluate(SMALL, run.seed, run.tensors()) == tests
    budgets = {row["variant"]: row["budget"] for row in tests}
    assert budgets == {
        "gru-k2-n4": 100 * 4 * 3, "gru-k3-n4": 100 * 4 * 3,
        "gru-k3-n12": 100 * 4 * 3 + 32 * 12 * 2, "lstm-k3-n4": 100 * 4 * 3,
    }  # fmt: skip


def test_the_longest_trials_are_not_evaluated_again(monkeypatch) -> None:
    config = replace(SMALL, cells=("3x101", "3x100"), lstm_cells=())
    called = []
    monkeypatch.setattr(bandit, "test", lambda *a: called.append((a[3:], a[1])) or [])
    assert bandit.evaluate(config, 4, {}) == []
    assert called == [(("gru", "3x100", "gru-k3-n100", None), 4)]


def test_a_second_run_of_a_finished_folder_learns_and_logs_nothing(finished, monkeypatch) -> None:
    run, rows, _ = finished
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # for speed
    monkeypatch.setattr(
        "metarl_lib.metrics.Metrics.write_events", lambda metrics: None
    )  # for speed
    monkeypatch.setattr(bandit, "EXACT", {(2, 4), (3, 4)})
    monkeypatch.setattr(bandit, "PROBED", PROBED)
    monkeypatch.setattr("metarl_lib.experiments.meta_training.PPO", None)
    again = Run.resume(run.folder, "bandit", SMALL)
    assert bandit.run(SMALL, again) == rows + last_logged(run)
    assert again.metrics().equals(run.metrics())


def best_total(arms, pulls):
    """The largest expected total reward, by recursion over ordered counts."""

    @cache
    def value(counts, left):
        if left == 0:
            return 0.0
        totals = []
        for i, (s, f) in enumerate(counts):
            mean = (s + 1) / (s + f + 2)
            won, lost = (
                tuple(new if j == i else old for j, old in enumerate(counts))
                for new in ((s + 1, f), (s, f + 1))
            )
            totals.append(mean * (1 + value(won, left - 1)) + (1 - mean) * value(lost, left - 1))
        return max(totals)

    return value(((0, 0),) * arms, pulls)


def simulated(policy, p, pulls, stream):
    """The rewards of a policy, and the arms that it pulled, as lists of whole numbers."""
    chosen = []

    def noted(*now):
        chosen.append(policy(*now))
        return chosen[-1]

    rewards = oracles.simulate(noted, p, pulls, stream)
    return rewards, [arm.tolist() for arm in chosen]


def test_agents_made_by_hand_play_the_same_bandits(finished) -> None:
    run, rows, _ = finished
    found, logged = rows_of(rows), run.metrics()
    budgets = {row["variant"]: row["budget"] for row in rows}
    for cell in SMALL.cells:
        arms, pulls = arms_and_pulls(cell)
        end = f"k{arms}-n{pulls}"
        p = bandit.unseen(SMALL, run.seed, cell).means
        policies = {
            "greedy": oracles.greedy,
            "epsilon-greedy": oracles.epsilon_greedy(0.05),
            "ucb": oracles.ucb(0.2),
            "thompson": oracles.thompson,
            "optimistic-thompson": oracles.optimistic_thompson,
            "gittins": oracles.gittins(FiniteHorizonGittins(pulls)),
        }
        expected = {"random": pulls / 2, "best-arm": pulls * arms / (arms + 1)}
        if pulls == 4:
            expected["optimal"] = pytest.approx(best_total(arms, pulls))
        for place, (name, policy) in enumerate(policies.items()):
            stream = generator(run.seed, "evaluation", 10 + place)
            rewards, chosen = simulated(policy, p, pulls, stream)
            expected[name] = pytest.approx(float(rewards.sum()) / 30)
            part = logged[logged["name"] == f"{name}-{end}/regret_so_far"]
            missed = [sum(float(max(q) - q[a]) for q, a in zip(p.tolist(), arm, strict=True)) / 30
                      for arm in chosen]  # fmt: skip
            missing = np.cumsum(missed).tolist()
            assert part["step"].tolist() == list(range(1, pulls + 1))
            assert part["value"].tolist() == pytest.approx(missing, abs=1e-5)
        measured = {
            name.removesuffix(f"-{end}"): value
            for (name, metric), value in found.items()
            if name.endswith(f"-{end}") and name not in ORDER and metric == "return"
        }
        assert measured == expected
        for name in expected:
            assert budgets[f"{name}-{end}"] == (30 * pulls if name in policies else 1)


def test_cells_that_nobody_plays_are_left_out(monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr(bandit, "train_agent", lambda stage, *rest: stage.save(1, {}))
    monkeypatch.setattr(bandit, "test", lambda *rest: [])
    monkeypatch.setattr(bandit, "by_hand", lambda config, seed, cell, log: asked.append(cell) or [])
    config = replace(SMALL, cells=("2x4",), lstm_cells=("3x4",), agents=("gru",))
    bandit.run(config, Run.create(tmp_path / "b", "bandit", config, scale="smoke", seed=0))
    assert asked == ["2x4"]


def test_a_long_curve_has_about_forty_points_and_the_last_one() -> None:
    points = []
    regret = torch.rand(499, 3, generator=seeded())
    bandit.curve(lambda step, values: points.append((step, values)), "a", regret, None)
    steps = [step for step, _ in points]
    assert 38 <= len(steps) <= 44
    assert (steps[0], steps[-1]) == (1, 499)
    assert all(0 < b - a <= 13 for a, b in pairwise(steps))
    for step, values in points:
        assert values == {
            "a/regret_so_far": pytest.approx(float(regret[:step].sum() / 3), rel=1e-5)
        }


def test_test_bandits_are_no_training_bandits_and_equal_for_all_agents() -> None:
    """Training and test tasks lie on fields of different colours."""
    for cell in ("2x4", "3x4", "3x12"):
        colours = []
        for p in (
            bandit.unseen(SMALL, 0, cell).means,
            trials(cell).sample_tasks(200, seeded()).means,
        ):
            colours.append(set(((p * 1024).floor().sum(1) % 2).tolist()))
        assert [len(c) for c in colours] == [1, 1]
        assert colours[0] != colours[1]
    first = bandit.unseen(SMALL, 0, "3x4").means
    assert first.shape == (30, 3)
    assert torch.equal(first, bandit.unseen(SMALL, 0, "3x4").means)
    for seed, cell in ((1, "3x4"), (0, "3x12")):
        assert not torch.equal(first, bandit.unseen(SMALL, seed, cell).means)
