"""Teams of one agent per layer: what each does with its network, and what all are compared by."""

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
    seeded,
    step_by_step,
)

from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.agents import SharedAgents
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.experiments.hand_made import train_by_hand
from metarl_lib.experiments.layerwise import (
    HAND_MADE,
    TEAMS,
    Config,
    Together,
    agents,
    compare,
    environment,
    live,
    take_away,
    unseen_stream,
    unseen_tasks,
)
from metarl_lib.experiments.learners import Follow, make_ppo, policy_tensors
from metarl_lib.runs import generator

SEED = 3
SMALL = Config(
    hidden=4, samples=8, steps=5, rows=2, rollouts=2, epochs=1, minibatches=2, units=8,
    test_tasks=3, search_tasks=2, rates=(1e-3, 1e-2), sigma=0.05,
)  # fmt: skip
RATES = {"np": 0.004, "wp": 0.002, "np-normalised": 0.03, "np-recipe": 0.1}
SHARED = ("shared", "shared-local")


@pytest.fixture(scope="module")
def tensors() -> dict:
    """Policies that were never trained but act with vigour, and rates of the hand-made rules."""
    rates = torch.tensor(list(RATES.values()))
    assert tuple(RATES) == HAND_MADE
    found = {"search-held_out.rates": rates, "search-deeper.rates": rates}
    for index, (name, team) in enumerate(TEAMS.items()):
        single = team.kind == "single"
        venv = SB3VecEnv(environment(SMALL) if single else agents(SMALL, team.view), 2)
        venv = venv if single else SharedAgents(venv)
        independent = team.kind == "independent"
        for agent in range(3 if independent else 1):
            seed = 10 * index + agent
            policy = opinionated(make_ppo(venv, SMALL, seed).policy, seed)
            prefix = f"{name}.{agent}" if independent else name
            found |= {f"{prefix}.{key}": t for key, t in policy_tensors(policy).items()}
    return found


def life_by_hand(tensors, name, condition="held_out", silent=None):
    """A team's life, the agents one after the other; agent `silent` does nothing."""
    team = TEAMS[name]
    inner = environment(SMALL, condition)
    env = inner if team.kind == "single" else agents(SMALL, team.view, condition)
    own = {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}

    def choose(seen, time):
        if team.kind == "single":
            action = perceptron(own, seen).clone()
            if silent is not None:
                action[:, 4 * silent : 4 * silent + 4] = 0
            return action
        parts = []
        for agent in range(seen.shape[1]):
            policy = own
            if team.kind == "independent":
                policy = {
                    k.removeprefix(f"{agent}."): t
                    for k, t in own.items()
                    if k.startswith(f"{agent}.")
                }
            parts.append(perceptron(policy, seen[:, agent]) * (agent != silent))
        return torch.stack(parts, 1)

    tasks = unseen_tasks(SMALL, SEED, inner, condition)
    return step_by_step(env, choose, tasks, unseen_stream(SEED, condition))


@pytest.fixture(scope="module", params=["held_out", "deeper"])
def compared(request, tensors):
    curves: dict = {}

    def log(step, values) -> None:
        for name, value in values.items():
            curves.setdefault(name, []).append((step, value))

    rows = rows_of(compare(SMALL, SEED, tensors, request.param, log))
    return request.param, rows, curves


def test_a_deeper_student_has_one_more_layer_and_learns_from_the_same_kind_of_teacher() -> None:
    assert environment(SMALL).network.widths == (10, 4, 4, 10)
    assert environment(SMALL, "deeper").network.widths == (10, 4, 4, 4, 10)
    for condition in ("held_out", "deeper"):
        env = environment(SMALL, condition)
        assert tuple(env.family.hidden) == (4,)
        assert (env.family.num_train, env.family.num_held_out) == (8, 8)
        assert (env.steps, env.init_std, env.sigma) == (5, 0.5, 0.05)
        assert env.network.output_activation == "relu"
        for view, size in (("global", 18), ("local", 13)):
            team = agents(SMALL, view, condition)
            assert team.observation_space.shape == (env.network.num_layers, size)
            assert team.inner.network == env.network
            assert (team.inner.init_std, team.inner.steps) == (env.init_std, env.steps)


@pytest.mark.parametrize("condition", ["held_out", "deeper"])
def test_unseen_teachers_have_a_first_weight_below_zero(condition) -> None:
    tasks = unseen_tasks(SMALL, SEED, environment(SMALL, condition), condition)
    stream = generator(SEED, "evaluation", 2 * (condition == "deeper"))
    first = torch.randn(3, 4, 10, generator=stream)
    second = torch.randn(3, 10, 4, generator=stream)
    first[:, 0, 0] = -first[:, 0, 0].abs()
    for own, x, y in zip(networks([first, second]), tasks.x, tasks.y, strict=True):
        target = torch.relu(outputs(environment(SMALL).network, own, x))
        assert float((target - y).square().mean().sqrt()) < 0.015  # the noise on the targets


def test_the_two_conditions_share_neither_tasks_nor_noise() -> None:
    drawn = [
        unseen_tasks(SMALL, SEED, environment(SMALL, c), c).x[0, 0].tolist()
        for c in ("held_out", "deeper")
    ]
    drawn += [
        torch.randn(10, generator=unseen_stream(SEED, c)).tolist() for c in ("held_out", "deeper")
    ]
    assert len({tuple(draw) for draw in drawn}) == 4


def test_independent_agents_act_each_on_what_it_sees() -> None:
    env = agents(SMALL, "global")
    venv = SharedAgents(SB3VecEnv(env, 2))
    policies = [opinionated(make_ppo(venv, SMALL, seed).policy, seed) for seed in range(3)]
    actor = Together([Follow(policy) for policy in policies], lambda action: 3 * action)
    state, _ = env.reset(env.sample_tasks(4, seeded()), seeded())
    seen = torch.randn(4, *env.observation_space.shape, generator=seeded(1))
    done = actor(seen, state)
    assert done.shape == (4, 3, 4)
    for row in range(4):
        for agent in range(3):
            expected = perceptron(policy_tensors(policies[agent]), seen[row, agent])
            torch.testing.assert_close(done[row, agent], 3 * expected)


@pytest.mark.parametrize("name", TEAMS)
def test_a_team_does_what_its_policies_say(name, tensors) -> None:
    tasks = unseen_tasks(SMALL, SEED, environment(SMALL), "held_out")
    life = live(SMALL, SEED, tensors, name, "held_out", tasks)
    logs, actions, _ = life_by_hand(tensors, name)
    torch.testing.assert_close(life.actions, actions, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(life.log_losses, logs, rtol=1e-4, atol=1e-4)
    assert (logs[-1] - logs[0]).abs().min() > 1e-3
    assert actions.std() > 0.1


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_policy_acts_on_one_more_layer(name, tensors) -> None:
    tasks = unseen_tasks(SMALL, SEED, environment(SMALL, "deeper"), "deeper")
    life = live(SMALL, SEED, tensors, name, "deeper", tasks)
    logs, actions, _ = life_by_hand(tensors, name, "deeper")
    assert life.actions.shape == (5, 3, 4, 4)
    torch.testing.assert_close(life.actions, actions, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(life.log_losses, logs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", ["single", "shared", "independent"])
def test_a_layer_whose_agent_does_nothing_keeps_its_first_weights(
    name, layer, tensors, monkeypatch
) -> None:
    env, states = environment(SMALL), []
    tasks = unseen_tasks(SMALL, SEED, env, "held_out")
    first, _ = env.reset(tasks, unseen_stream(SEED, "held_out"))
    real = WeightSpace.step

    def watched(*arguments):
        state, step = real(*arguments)
        states.append(state)
        return state, step

    monkeypatch.setattr(WeightSpace, "step", watched)
    keep = torch.ones(3, 4)
    keep[layer] = 0.0
    life = live(SMALL, SEED, tensors, name, "held_out", tasks, keep)
    assert len(states) == 5
    for other in range(3):
        same = [torch.equal(s.params[other], first.params[other]) for s in states]
        assert same == [other == layer] * 5
    final = log_losses(env.network, states[-1].params, tasks)
    torch.testing.assert_close(life.log_losses[-1], final)


def test_what_is_lost_without_a_layers_agent(tensors) -> None:
    rows = take_away(SMALL, SEED, tensors)
    found = rows_of(rows)
    assert len(found) == 9
    for name in ("single", "shared", "independent"):
        for layer in range(3):
            logs, _, _ = life_by_hand(tensors, name, silent=layer)
            expected = float(logs[-1].mean())
            assert found[name, f"loss_without_{layer}"] == pytest.approx(expected, abs=1e-4)
    assert {row["budget"] for row in rows} == {5}


def test_teams_are_measured_as_their_lives_go(compared, tensors) -> None:
    condition, rows, curves = compared
    able = TEAMS if condition == "held_out" else SHARED
    assert {variant for variant, _ in rows} == {*able, *RATES, "zero", "constant"}
    last = {}
    for name in able:
        logs, _, _ = life_by_hand(tensors, name, condition)
        last[name] = float(logs[-1].mean())
        area = np.mean([float(logs[t].mean()) for t in range(1, 6)])
        assert rows[name, f"area_{condition}"] == pytest.approx(area, abs=1e-4)
        assert rows[name, f"log_loss_{condition}"] == pytest.approx(last[name], abs=1e-4)
        curve = curves[f"{name}/log_loss_{condition}"]
        assert [step for step, _ in curve] == list(range(6))
        assert curve[-1][1] == pytest.approx(rows[name, f"log_loss_{condition}"], abs=1e-6)
        assert rows[name, f"diverged_{condition}"] == 0.0
        difference = rows.get((name, "loss_minus_single"))
        if condition == "deeper" or name == "single":
            assert difference is None
        else:
            assert difference == pytest.approx(last[name] - last["single"], abs=2e-4)
    hidden = {name: value for name, value in rows.items() if name[1] == "loss_minus_shared"}
    if condition == "held_out":
        difference = last["shared-local"] - last["shared"]
        assert hidden == {
            ("shared-local", "loss_minus_shared"): pytest.approx(difference, abs=2e-4)
        }
    else:
        assert not hidden
    starts = [curve[0][1] for curve in curves.values()]
    assert max(starts) - min(starts) < 1e-5


def test_hand_made_rules_take_their_own_rate(compared) -> None:
    condition, rows, _ = compared
    env = environment(SMALL, condition)
    tasks = unseen_tasks(SMALL, SEED, env, condition)
    for name, rate in RATES.items():
        life = train_by_hand(env, name, rate, tasks, unseen_stream(SEED, condition))
        expected = {
            "area": life.log_losses[1:].mean(),
            "log_loss": life.log_losses[-1].mean(),
            "held_out_loss": life.held_out.mean(),
            "diverged": life.diverged.double().mean(),
            "rate": rate,
        }
        for metric, value in expected.items():
            found = rows[name, f"{metric}_{condition}"]
            assert found == pytest.approx(float(value), rel=1e-5)


def test_a_hand_made_rule_that_diverges_is_counted(tensors) -> None:
    rates = torch.tensor([1e6, *list(RATES.values())[1:]])
    wild = tensors | {"search-held_out.rates": rates}
    rows = rows_of(compare(SMALL, SEED, wild, "held_out", lambda step, values: None))
    shares = {name: rows[name, "diverged_held_out"] for name in (*RATES, *TEAMS)}
    assert shares == {name: float(name == "np") for name in shares}
    assert rows["np", "area_held_out"] == pytest.approx(CEILING)
