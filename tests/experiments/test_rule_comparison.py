"""Learned rules put to the test: conditions, tasks, what is measured, and what is taken away."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from plain_lives import (
    CEILING,
    log_losses,
    networks,
    opinionated,
    outputs,
    perceptron,
    rows_of,
    step_by_step,
)

from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.agents import SharedAgents, Synapses, one_agent
from metarl_lib.experiments.hand_made import HAND_MADE, references, train_by_hand
from metarl_lib.experiments.learners import (
    Follow,
    follow,
    make_ppo,
    policy_tensors,
    rebuild,
)
from metarl_lib.experiments.rule_comparison import (
    LEARNED,
    compare,
    environment,
    explain,
    live,
    planned,
    unseen_stream,
    unseen_tasks,
)
from metarl_lib.experiments.update_rule import Config
from metarl_lib.runs import generator

SEED = 3
SMALL = Config(
    hidden=5, samples=8, steps=5, rows=2, epochs=1, minibatches=1, units=8, test_tasks=3,
    search_tasks=2, rates=(1e-2, 5e-2), conditions=("held_out", "life_4x", "digits"), init_std=0.8,
    sigma=0.05,
)  # fmt: skip
RATES = {
    "sgd": 0.02, "adam": 0.03, "wp": 0.01, "np": 0.015, "np-adam": 0.005, "sgd-normalised": 0.05,
    "np-normalised": 0.04, "sgd-recipe": 0.2, "np-recipe": 0.15,
}  # fmt: skip
SIGNALS = ("drive", "momentum", "hebb", "decay")
LAYERS = 2


@pytest.fixture(scope="module")
def tensors() -> dict:
    """Policies that were never trained but act with vigour, and rates of the hand-made rules."""
    assert tuple(RATES) == HAND_MADE
    found = {f"search-{c}.rates": torch.tensor(list(RATES.values())) for c in SMALL.conditions}
    for index, (name, learned) in enumerate(LEARNED.items()):
        env = environment(SMALL, learned=learned)
        venv = SB3VecEnv(Synapses(env) if learned.kind == "synapse" else env, 2)
        venv = SharedAgents(venv) if learned.kind == "synapse" else venv
        model = make_ppo(venv, SMALL, index, recurrent=learned.kind == "recurrent")
        policy = policy_tensors(opinionated(model.policy, index))
        found |= {f"{name}.{key}": tensor for key, tensor in policy.items()}
    return found


def gathered(function) -> SimpleNamespace:
    """The rows of a comparison, and its curves as {name: {step: value}}."""
    curves: dict = {}

    def log(step, values) -> None:
        for name, value in values.items():
            assert step not in curves.setdefault(name, {})
            curves[name][step] = value

    return SimpleNamespace(rows=rows_of(function(log)), curves=curves)


@pytest.fixture(scope="module", params=SMALL.conditions)
def compared(request, tensors):
    plan = planned(SMALL, SEED, tensors)
    found = gathered(lambda log: compare(SMALL, SEED, tensors, request.param, plan, log))
    found.condition, found.env = request.param, environment(SMALL, request.param)
    found.tasks = unseen_tasks(SMALL, SEED, request.param, found.env)
    return found


@pytest.fixture(scope="module")
def explained(tensors):
    return gathered(lambda log: explain(SMALL, SEED, tensors, log))


def own_tensors(tensors, name) -> dict:
    return {k.split(".", 1)[1]: t for k, t in tensors.items() if k.split(".")[0] == name}


def life_by_hand(tensors, name, condition, change=lambda action, time: action):
    """What a learned rule does with the test tasks, its network and its steps written out."""
    learned = LEARNED[name]
    env = environment(SMALL, condition, learned)
    policy = own_tensors(tensors, name)
    choose = lambda seen, time: change(perceptron(policy, seen), time)  # noqa: E731
    if learned.kind == "synapse":
        env = Synapses(env)
    elif learned.kind == "recurrent":
        spaces = env.observation_space, env.action_space
        actor = Follow(rebuild(tensors, name, *spaces, SMALL.units))
        life = follow(
            env, actor, unseen_tasks(SMALL, SEED, condition, env), unseen_stream(SEED, condition)
        )
        return life.log_losses, life.actions, None
    tasks = unseen_tasks(SMALL, SEED, condition, getattr(env, "inner", env))
    return step_by_step(env, choose, tasks, unseen_stream(SEED, condition))


def test_the_area_is_the_mean_log_loss_after_each_update(compared, tensors) -> None:
    areas = {}
    for name in LEARNED:
        logs, _, _ = life_by_hand(tensors, name, compared.condition)
        assert logs.shape == (compared.env.steps + 1, 3)
        areas[name] = np.mean([logs[t, b] for t in range(1, len(logs)) for b in range(3)])
        found = compared.rows[name, f"area_{compared.condition}"]
        assert found == pytest.approx(areas[name], abs=1e-4)
        last = compared.rows[name, f"log_loss_{compared.condition}"]
        assert last == pytest.approx(float(logs[-1].mean()), abs=1e-4)
    assert np.diff(sorted(areas.values())).min() > 5e-3  # so that no two could be mixed up


def test_hand_made_rules_take_their_own_rate_and_the_same_start(compared) -> None:
    for name, rate in RATES.items():
        life = train_by_hand(
            compared.env, name, rate, compared.tasks, unseen_stream(SEED, compared.condition)
        )
        expected = {
            "area": life.log_losses[1:].mean(),
            "log_loss": life.log_losses[-1].mean(),
            "held_out_loss": life.held_out.mean(),
            "diverged": life.diverged.double().mean(),
            "rate": rate,
        }
        if compared.condition == "digits":
            expected["held_out_accuracy"] = life.accuracy.mean()
        for metric, value in expected.items():
            found = compared.rows[name, f"{metric}_{compared.condition}"]
            assert found == pytest.approx(float(value), rel=1e-5)
    starts = {curve[0] for name, curve in compared.curves.items()}
    assert len(compared.curves) == len(HAND_MADE) + len(LEARNED)
    assert max(starts) - min(starts) < 1e-5


def test_differences_are_those_of_the_areas_and_of_the_held_out_losses(compared) -> None:
    c, rows = compared.condition, compared.rows
    for name in LEARNED:
        others = ("sgd", "adam") if name == "rule-gradient" else ("np", "wp")
        for other in HAND_MADE:
            for metric in ("area", "held_out"):
                assert ((name, f"{metric}_minus_{other}_{c}") in rows) == (other in others)
        for other in others:
            for metric, own in (("area", f"area_{c}"), ("held_out", f"held_out_loss_{c}")):
                difference = rows[name, own] - rows[other, own]
                found = rows[name, f"{metric}_minus_{other}_{c}"]
                assert found == pytest.approx(difference, abs=1e-5)


def test_curves_hold_every_second_step_of_a_usual_life_and_end_at_the_summary(compared) -> None:
    steps = [0, 8, 16, 20] if compared.condition == "life_4x" else [0, 2, 4, 5]
    for name, curve in compared.curves.items():
        variant, metric = name.split("/")
        assert metric == f"log_loss_{compared.condition}"
        assert list(curve) == steps
        assert curve[steps[-1]] == pytest.approx(compared.rows[variant, metric], abs=1e-6)


def test_the_references_stand_beside_the_rules(compared) -> None:
    for name, value in references(compared.env, compared.tasks).items():
        assert compared.rows[name, f"log_loss_{compared.condition}"] == value


def test_held_out_losses_are_those_of_samples_that_were_not_learned(compared, tensors) -> None:
    for name in LEARNED:
        life = live(SMALL, SEED, tensors, name, compared.condition, compared.tasks)
        found = compared.rows[name, f"held_out_loss_{compared.condition}"]
        assert found == pytest.approx(float(life.held_out.mean()), abs=1e-6)
        _, _, state = life_by_hand(tensors, name, compared.condition)
        if state is not None:  # all but the recurrent policy
            given = compared.tasks._replace(
                x=compared.tasks.held_out_x, y=compared.tasks.held_out_y
            )
            expected = log_losses(compared.env.network, state.params, given).mean()
            assert found == pytest.approx(float(expected), abs=1e-4)
        assert abs(found - compared.rows[name, f"log_loss_{compared.condition}"]) > 1e-3


def test_the_share_of_held_out_digits_is_that_which_a_rules_network_names_correctly(
    compared, tensors
) -> None:
    key = f"held_out_accuracy_{compared.condition}"
    given = {variant for variant, metric in compared.rows if metric == key}
    assert given == ({*LEARNED, *HAND_MADE} if compared.condition == "digits" else set())
    for name in given & {name for name, learned in LEARNED.items() if learned.kind == "mlp"}:
        _, _, state = life_by_hand(tensors, name, compared.condition)
        right = []
        for own, x, y in zip(
            networks(state.params),
            compared.tasks.held_out_x,
            compared.tasks.held_out_y,
            strict=True,
        ):
            scores = outputs(compared.env.network, own, x).tolist()
            right += [row.index(max(row)) == label for row, label in zip(scores, y, strict=True)]
        assert compared.rows[name, key] == pytest.approx(np.mean(right), abs=1e-6)


def test_a_hand_made_rule_that_diverges_is_counted(tensors) -> None:
    wild = tensors | {"search-held_out.rates": torch.tensor([*list(RATES.values())[:-1], 1e4])}
    wild["search-held_out.rates"][1] = 1e4
    plan = planned(SMALL, SEED, wild)
    found = gathered(lambda log: compare(SMALL, SEED, wild, "held_out", plan, log)).rows
    shares = {name: found[name, "diverged_held_out"] for name in (*HAND_MADE, *LEARNED)}
    assert shares.pop("adam") == 1.0
    shares.pop("np-recipe")  # whose coefficient is bounded
    assert set(shares.values()) == {0.0}
    assert found["adam", "area_held_out"] == pytest.approx(CEILING)


@pytest.mark.parametrize("name", ["rule", "rule-drive-only", "rule-gradient"])
def test_explained_are_the_coefficients_and_rates_of_each_layer(name, explained, tensors) -> None:
    """c = 0.3 sinh(5a) / sinh 5, and η = c ρ / rms(drive); the rows hold the last step's."""
    _, actions, _ = life_by_hand(tensors, name, "held_out")
    own = SIGNALS[:1] if name == "rule-drive-only" else SIGNALS
    env = environment(SMALL, "held_out", LEARNED[name])
    stream = unseen_stream(SEED, "held_out")
    state, _ = env.reset(unseen_tasks(SMALL, SEED, "held_out", env), stream)
    rho = [p.flatten(1).square().mean(1).sqrt() for p in state.params]
    for time, action in enumerate(actions):
        published = time % 2 == 0 or time == len(actions) - 1
        for layer in range(LAYERS):
            c = 0.3 * np.sinh(5 * action[:, layer * len(own) :].numpy()) / math.sinh(5)
            sizes = [d.square().mean().sqrt() for d in state.signals.drive[layer]]
            rates = np.log(np.abs(c[:, 0]) * rho[layer].numpy() / np.array(sizes))
            expected = {f"log_rate_{layer}": rates.mean()} | {
                f"coefficient_{signal}_{layer}": c[:, k].mean() for k, signal in enumerate(own)
            }
            for metric, value in expected.items():
                curve = explained.curves[f"{name}/{metric}"]
                assert (time + 1 in curve) == published
                if published:
                    assert curve[time + 1] == pytest.approx(value, rel=1e-3, abs=1e-4)
                if time == len(actions) - 1:
                    assert explained.rows[name, metric] == pytest.approx(curve[time + 1], abs=1e-6)
        state, _ = env.step(state, action, stream)


@pytest.mark.parametrize("signal", SIGNALS)
def test_without_a_signal_its_coefficient_is_zero(signal, explained, tensors) -> None:
    def change(action, time):
        action = action.clone()
        for layer in range(LAYERS):
            action[:, 4 * layer + SIGNALS.index(signal)] = 0.0
        return action

    logs, _, _ = life_by_hand(tensors, "rule", "held_out", change)
    found = explained.rows[f"rule-without-{signal}", "area_held_out"]
    assert found == pytest.approx(float(logs[1:].mean()), abs=1e-4)
    whole, _, _ = life_by_hand(tensors, "rule", "held_out")
    assert abs(float(whole[1:].mean()) - found) > 1e-3


def test_the_open_loop_takes_the_mean_action_of_each_step_on_training_tasks(
    compared, tensors
) -> None:
    """Of a plan made elsewhere; in a life four times as long each action is taken four times."""
    usual, policy = environment(SMALL), own_tensors(tensors, "rule")
    tasks = usual.sample_tasks(3, generator(SEED, "tuning", 999))
    assert not torch.equal(tasks.x, unseen_tasks(SMALL, SEED, "held_out", usual).x)
    stream = generator(SEED, "tuning", 998)
    choose = lambda seen, time: perceptron(policy, seen)  # noqa: E731
    _, actions, _ = step_by_step(usual, choose, tasks, stream)
    plan = [sum(step) / len(step) for step in actions]

    def follow_plan(action, time):
        return plan[time // 4 if compared.env.steps == 20 else time].expand(3, -1)

    logs, _, _ = life_by_hand(tensors, "rule", compared.condition, follow_plan)
    found = compared.rows["rule-open-loop", f"area_{compared.condition}"]
    assert found == pytest.approx(float(logs[1:].mean()), abs=1e-4)
    whole, _, _ = life_by_hand(tensors, "rule", compared.condition)
    assert abs(float(whole[1:].mean()) - found) > 1e-3


def test_one_policy_at_every_synapse_fits_networks_of_any_width(tensors) -> None:
    env = environment(SMALL, "width_2x", LEARNED["synapse"])
    spaces = one_agent(env.observation_space), one_agent(Synapses(env).action_space)
    policy = rebuild(tensors, "synapse", *spaces, SMALL.units)
    tasks = unseen_tasks(SMALL, SEED, "width_2x", env)
    life = live(SMALL, SEED, tensors, "synapse", "width_2x", tasks)
    assert life.actions.shape == (5, 3, 200, 1)
    _, seen = env.reset(tasks, unseen_stream(SEED, "width_2x"))
    expected, _ = policy.predict(seen.flatten(0, 1).numpy(), deterministic=True)
    assert np.array_equal(life.actions[0].flatten(0, 1).numpy(), expected)
