"""The experiment on the two-step task: what is said of an agent, counted round by round."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from full_speed import full_speed
from plain_lives import rows_of, seeded
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import Tensor

from metarl_lib.experiments import two_step
from metarl_lib.experiments.two_step import (
    VARIANT,
    Config,
    describe,
    prediction_errors,
    weights_of_two,
)
from metarl_lib.oracles import BayesFilter, ModelBased, ModelFree, TwoStepTask
from metarl_lib.oracles.two_step import Record
from metarl_lib.runs import Run, generator

SMALL = Config(rows=4, segment=16, updates=2, units=4, test_trials=40)
COMMON, PAYS, SWITCH = 0.8, 0.9, 0.025
ROUNDS, TRIALS = 8, 40
EFFECTS = ("reward", "transition", "interaction", "correct")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run.create(tmp_path_factory.mktemp("t") / "t", "two_step", SMALL, scale="smoke", seed=2)
    with full_speed():
        return run, two_step.run(SMALL, run)


def history(record) -> list[list[tuple]]:
    """Row by row, round by round: action, place, common, reward, good."""
    return [
        list(zip(*[field[:, b].tolist() for field in record], strict=True))
        for b in range(record.action.shape[1])
    ]


def plain_description(record) -> dict[str, float]:
    """Counts and shares in Python, the effects by scikit-learn."""
    rows = history(record)
    every = [one for row in rows for one in row]
    found = {
        "reward_per_round": sum(reward for *_, reward, _ in every) / len(every),
        "better_choice": sum(a == good for a, *_, good in every) / len(every),
    }
    pairs = [(row[t], row[t + 1][0] == row[t][0]) for row in rows for t in range(len(row) - 1)]
    for paid, word in ((1, "rewarded"), (0, "unrewarded")):
        for usual, kind in ((True, "common"), (False, "rare")):
            stays = [stay for (_, _, c, r, _), stay in pairs if (c, r) == (usual, paid)]
            found[f"stay_{word}_{kind}"] = sum(stays) / len(stays)
    x = []
    for (action, _, common, reward, good), _ in pairs:
        r, c = (1 if reward else -1), (1 if common else -1)
        x.append([r, c, r * c, 1 if action == good else -1])
    fit = LogisticRegression(C=np.inf, tol=1e-8).fit(x, [stay for _, stay in pairs])
    return found | {f"effect_{n}": c for n, c in zip(EFFECTS, fit.coef_[0], strict=True)}


def inner_values(record) -> np.ndarray:
    """Of every round and row: what two inner algorithms expect at both stages, `[T, B, 4]`.

    Model-based Q(action) and V(place) of the exact belief, then those of SARSA(1) at rate 0.3.
    """
    rows = history(record)
    found = np.zeros((len(record.action), len(rows), 4))
    for b, row in enumerate(rows):
        belief, q, v = 0.5, [0.5, 0.5], [0.5, 0.5]  # belief: place 1 is the good one
        for t, (action, place, _, reward, _) in enumerate(row):
            one = belief * PAYS + (1 - belief) * (1 - PAYS)
            zero = (1 - belief) * PAYS + belief * (1 - PAYS)
            worth = (zero, one)
            planned = COMMON * worth[action] + (1 - COMMON) * worth[1 - action]
            found[t, b] = planned, worth[place], q[action], v[place]
            like = [PAYS if (place == good) == (reward == 1) else 1 - PAYS for good in (0, 1)]
            belief = belief * like[1] / (belief * like[1] + (1 - belief) * like[0])
            belief = belief * (1 - SWITCH) + (1 - belief) * SWITCH
            q[action] += 0.3 * (reward - q[action])
            v[place] += 0.3 * (reward - v[place])
    return found


def plain_errors(record, values, discount) -> dict[str, float]:
    planned, worth, cached, seen = np.moveaxis(inner_values(record), -1, 0)
    values = values.double().numpy()
    columns = (worth - planned, seen - cached, discount * values[1::2] - values[::2])
    based, free, outer = ((c.ravel() - c.mean()) / c.std() for c in columns)
    x = np.stack([based, free], 1)
    fit = LinearRegression().fit(x, outer)
    names = ("rpe_model_based", "rpe_model_free", "rpe_r2")
    return dict(zip(names, (*fit.coef_, fit.score(x, outer)), strict=True))


def shown(agent=None, rounds=12, batch=60, seed=0) -> Record:
    return TwoStepTask().simulate(agent or ModelBased(), rounds, batch, seeded(seed))


@pytest.mark.parametrize("agent", [ModelBased(), ModelFree()], ids=["based", "free"])
def test_a_description_is_what_is_counted_round_by_round(agent) -> None:
    record = shown(agent)
    expected = plain_description(record)
    assert describe(record) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    shares = {name: value for name, value in expected.items() if "effect" not in name}
    assert describe(record, effects=False) == pytest.approx(shares)
    assert len({round(value, 3) for value in expected.values()}) == len(expected) == 10


def test_the_effects_of_an_agent_that_always_stays_are_left_out() -> None:
    record = shown()
    always = record._replace(action=torch.ones_like(record.action))
    found = describe(always)
    assert found == describe(always, effects=False)
    assert found["stay_rewarded_common"] == 1


def interleaved(first, second) -> Tensor:
    """Values at the first and the second stage in turn, `[2 T, B]`."""
    return torch.stack([torch.tensor(first), torch.tensor(second)], 1).flatten(0, 1).float()


def test_prediction_errors_are_regressed_as_in_a_plain_loop() -> None:
    record = shown(ModelFree(), rounds=15, batch=40, seed=1)
    inner = inner_values(record)
    noise = torch.randn(30, 40, generator=seeded(3))
    for discount in (0.9, 0.5):
        config = replace(SMALL, discount=discount)
        for mix in (0.0, 1.0):
            first = inner[..., 0] + 0.5 * mix * inner[..., 2]
            second = (inner[..., 1] + 0.5 * mix * inner[..., 3]) / 0.9
            values = interleaved(first, second) + 0.1 * noise
            found = prediction_errors(config, record, values)
            expected = plain_errors(record, values, discount)
            assert found == pytest.approx(expected, abs=1e-4)
            assert 0.1 < expected["rpe_r2"] < 0.95


@pytest.mark.parametrize(("columns", "weights"), [((0, 1), (1, 0)), ((2, 3), (0, 1))])
def test_a_critic_that_follows_one_inner_algorithm_is_told_from_the_other(columns, weights) -> None:
    """Its value at the first stage is Q of the action, at the second V of the place over γ."""
    record, config = shown(ModelFree(), batch=100, seed=2), replace(SMALL, discount=0.8)
    inner = inner_values(record)
    values = interleaved(inner[..., columns[0]], inner[..., columns[1]] / 0.8)
    found = prediction_errors(config, record, values)
    expected = dict(zip(found, (*weights, 1.0), strict=True))
    assert found == pytest.approx(expected, abs=1e-4)
    shifted = prediction_errors(config, record, values.flip(0))
    assert shifted["rpe_r2"] < 0.5


def test_a_critic_that_never_changes_its_mind_follows_nobody() -> None:
    found = prediction_errors(SMALL, shown(), torch.full((24, 60), 0.3))
    assert found["rpe_model_based"] == found["rpe_model_free"] == 0


@pytest.mark.parametrize("kind", ["full", "equal", "opposite", "one", "other", "none"])
def test_the_two_weights_are_those_of_the_pseudoinverse(kind) -> None:
    x, z, y = torch.randn(3, 50, dtype=torch.float64, generator=seeded(4))
    zero = torch.zeros_like(x)
    x, z = {
        "full": (x, z),
        "equal": (x, x),
        "opposite": (x, -x),
        "one": (x, zero),
        "other": (zero, z),
        "none": (zero, zero),
    }[kind]
    expected = np.linalg.pinv(torch.stack([x, z], 1).numpy()) @ y.numpy()
    assert weights_of_two(x, z, y) == pytest.approx(expected, abs=1e-10)


@torch.no_grad()
def replay(run) -> tuple[Record, Tensor]:
    """The test written out, a row's environment in Python's numbers."""
    model = two_step.make_agent(SMALL)
    model.load_state_dict(run.stage(VARIANT).tensors)
    good = torch.randint(2, (TRIALS,), generator=generator(run.seed, "evaluation", 0)).tolist()
    stream, memory = generator(run.seed, "evaluation", 1), model.initial_state(TRIALS)
    seen = [[1, 0, 0, 0, 0, 0, 0]] * TRIALS  # the first stage; no action, reward or boundary yet
    rounds, values = [], []
    for t in range(2 * ROUNDS):
        y, memory = model.core.step(torch.tensor(seen).float(), memory)
        values.append(model.value_head(y)[:, 0])
        logits = model.policy_head(y)
        clocks = torch.empty(TRIALS, 2).exponential_(generator=stream)
        actions = (logits.softmax(-1) / clocks).argmax(-1).tolist()
        chance, turn = torch.rand(2, TRIALS, generator=stream).tolist()
        if t % 2 == 0:
            rounds.append([])
        for b, action in enumerate(actions):
            reward, where = 0, [1, 0, 0]
            if t % 2 == 0:
                common = chance[b] < COMMON
                place = action if common else 1 - action
                rounds[-1].append([action, place, common, 0, good[b]])
                where = [0, 1, 0] if place == 0 else [0, 0, 1]
            else:
                one = rounds[-1][b]
                reward = int(chance[b] < (PAYS if one[1] == good[b] else 1 - PAYS))
                one[3] = reward
                good[b] = 1 - good[b] if turn[b] < SWITCH else good[b]
            done = int(t == 2 * ROUNDS - 1)
            seen[b] = [*where, int(action == 0), int(action == 1), reward, done]
    columns = torch.tensor(rounds).unbind(-1)
    record = Record(columns[0], columns[1], columns[2].bool(), columns[3].float(), columns[4])
    return record, torch.stack(values)


def test_the_test_of_the_agent_is_its_trials_played_by_hand(finished) -> None:
    run, rows = finished
    record, values = replay(run)
    expected = plain_description(record) | plain_errors(record, values, SMALL.discount)
    expected["parameters"] = 4 * 4 * (7 + 4 + 2) + 5 * 2 + 5
    found = {m: value for (name, m), value in rows_of(rows).items() if name == VARIANT}
    logged = {m: found.pop(m) for m in ("training_return", "entropy", "value_loss", "kl")}
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-4)
    for metric, value in logged.items():  # the last point of its curve
        curve = run.metrics().query(f"name == '{VARIANT}/{metric}'")
        assert value == curve.sort_values("step")["value"].iloc[-1]


def test_evaluating_repeats_the_test_to_the_last_bit(finished, unchecked) -> None:
    run, rows = finished
    found = two_step.evaluate(SMALL, run.seed, run.tensors())
    assert found == [row for row in rows if row["variant"] == VARIANT][: len(found)]
    assert {row["budget"] for row in found} == {4 * 16 * 2}
    assert two_step.evaluate(SMALL, run.seed + 1, run.tensors()) != found


def test_agents_made_by_hand_stand_beside_it(finished) -> None:
    run, rows = finished
    played = {"model-free", "model-based", "bayes"}
    for row in rows:
        if row["variant"] != VARIANT:
            steps = SMALL.segment * SMALL.test_trials
            assert row["budget"] == (steps if row["variant"] in played else 1)
    found, task = rows_of(rows), TwoStepTask()
    assert found["random", "reward_per_round"] == 0.5
    assert found["informed", "reward_per_round"] == pytest.approx(0.74)
    assert found["optimal", "reward_per_round"] == task.optimal_reward(ROUNDS)
    agents = {"model-free": ModelFree(), "model-based": ModelBased(), "bayes": BayesFilter(task)}
    for place, (name, agent) in enumerate(agents.items()):
        stream = generator(run.seed, "evaluation", 10 + place)
        record = task.simulate(agent, ROUNDS, TRIALS, stream)
        measured = {metric: value for (who, metric), value in found.items() if who == name}
        effects = name != "bayes"
        assert len(measured) == (10 if effects else 6)
        expected = plain_description(record)
        assert measured == pytest.approx({m: expected[m] for m in measured}, rel=1e-3, abs=1e-3)


def test_a_segment_is_a_whole_trial_of_two_steps_a_round() -> None:
    config = Config(segment=30)
    assert config.rounds == 15
    assert config.whole_trials
    assert two_step.trials(config).max_steps == 30
    with pytest.raises(ValueError, match="segment=31: must be even, because a round has two steps"):
        Config(segment=31)


@pytest.mark.parametrize("name", ["units", "test_trials", "rows", "updates"])
def test_settings_out_of_range_are_refused(name) -> None:
    with pytest.raises(ValueError, match=f"{name}=0: must be (greater than 0|a whole number >= 1)"):
        two_step.EXPERIMENT.config("smoke", {name: 0})
