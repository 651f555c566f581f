"""The policy that learns by gradient steps: against a plain row, and against finite differences."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from streams import stream
from torch import Tensor

from metarl_lib.algos import PPO, Settings, Streams
from metarl_lib.algos.linear_baseline import fit
from metarl_lib.algos.maml_policy import MAMLPolicy
from metarl_lib.envs.bandit import Bandit
from metarl_lib.envs.point_robot import PointRobot
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.meta_training import play

H, ROWS, INPUTS = 3, 4, 2 + 3 + 2
CHOICES, VECTORS = spaces.Discrete(3), spaces.Box(-1.0, 1.0, (3,), np.float32)
SEEN = spaces.Box(-np.inf, np.inf, (INPUTS,), np.float32)


def agent_of(actions: spaces.Space, **options) -> MAMLPolicy:
    """A small agent in float64 whose policy is not nearly even."""
    torch.manual_seed(0)
    options = {"hidden": (5, 4), "horizon": H, "rate": 0.7, "value_unit": 2.0} | options
    agent = MAMLPolicy(SEEN, actions, **options).double()
    with torch.no_grad():
        agent.weights[-2].normal_()
        for log_rate in agent.log_rates:
            log_rate += 0.1 * torch.randn(log_rate.shape)
    return agent


def lives(steps: int, actions: spaces.Space, seed: int = 1) -> Tensor:
    """What a trial shows: two numbers, the previous action, its reward, and the boundary."""
    generator = stream(seed)
    seen = torch.randn(steps, ROWS, INPUTS, generator=generator, dtype=torch.float64)
    if isinstance(actions, spaces.Discrete):
        choice = torch.randint(3, (steps, ROWS), generator=generator)
        seen[..., 2:5] = torch.nn.functional.one_hot(choice, 3)
    seen[..., 6] = (torch.rand(steps, ROWS, generator=generator) < 0.25).double()
    seen[0, :, 2:] = 0
    return seen


def plain_network(weights: list[Tensor], x: Tensor) -> Tensor:
    first, b, second, c, third, d = weights
    return third @ torch.tanh(second @ torch.tanh(first @ x + b) + c) + d


def plain_life(agent: MAMLPolicy, seen: Tensor, discrete: bool, gamma=0.95, lam=0.95) -> Tensor:
    """One row, step by step, with autograd for the slopes: `[T, A + 1]`."""
    weights = [w.clone() for w in agent.weights]
    found: list[Tensor] = []
    for t, x in enumerate(seen):
        if t > 0 and t % H == 0:
            values = [
                2.0 * plain_network(weights, seen[u])[-1].detach() for u in range(t - H, t + 1)
            ]
            if agent.baseline == "linear":
                rewards, ended = seen[t - H + 1 : t + 1, 5:].T
                lived = seen[t - H : t, None], rewards[:, None], ended[:, None] > 0
                values = [*fit(*lived, gamma).values[:, 0], torch.zeros(())]
            advantage, loss = 0.0, 0.0
            for u in reversed(range(H)):
                after = seen[t - H + u + 1]
                on = 1.0 - float(after[6] > 0)
                delta = after[5] + gamma * on * values[u + 1] - values[u]
                advantage = delta + gamma * lam * on * advantage
                logits = plain_network(weights, seen[t - H + u])[:-1]
                if discrete:
                    log_prob = torch.log_softmax(logits, 0)[after[2:5].argmax()]
                else:
                    std = agent.log_std.exp()
                    unit = (after[2:5] - logits) / std
                    log_prob = (-(unit**2) / 2 - std.log() - 0.5 * math.log(2 * math.pi)).sum()
                loss = loss - log_prob * advantage / 2.0 / H
            slopes = torch.autograd.grad(loss, weights, create_graph=True)
            rates = [log_rate.exp() for log_rate in agent.log_rates]
            weights = [w - r * g for w, r, g in zip(weights, rates, slopes, strict=True)]
        found.append(plain_network(weights, x))
    return torch.stack(found)


def read(agent: MAMLPolicy, outputs) -> Tensor:
    """Log-probabilities or means, and values in their unit."""
    base = getattr(outputs.policy, "logits", None)
    base = outputs.policy.mean if base is None else base
    return torch.cat([base, outputs.values[..., None] / agent.value_unit], -1)


def normed(found: Tensor, discrete: bool) -> Tensor:
    if not discrete:
        return found
    return torch.cat([torch.log_softmax(found[..., :-1], -1), found[..., -1:]], -1)


@pytest.mark.parametrize("actions", [CHOICES, VECTORS])
@pytest.mark.parametrize("rates", ["fixed", "learned"])
@pytest.mark.parametrize("baseline", ["critic", "linear"])
def test_it_is_the_plain_row_in_values_and_all_gradients(actions, rates, baseline) -> None:
    # Three returns leave a line of so many features next to nothing, so that it takes large steps.
    rate = 0.7 if baseline == "critic" else 70.0
    agent = agent_of(actions, rates=rates, baseline=baseline, rate=rate)
    seen = lives(8, actions)
    discrete = actions is CHOICES
    found = read(agent, agent(seen, agent.initial_state(ROWS)))
    plain = torch.stack([plain_life(agent, seen[:, b], discrete) for b in range(ROWS)], 1)
    plain = normed(plain, discrete)
    torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-10)
    moved = (found[H:] - read(agent, agent(seen[H:], agent.initial_state(ROWS)))[: 8 - H]).abs()
    assert moved.max() > 1e-3, "the gradient steps must have changed something"
    mix = torch.randn(found.shape, generator=stream(2), dtype=torch.float64)
    own = [p for p in agent.parameters() if p.requires_grad]
    ours = torch.autograd.grad((found * mix).sum(), own, allow_unused=True)
    theirs = torch.autograd.grad((plain * mix).sum(), own, allow_unused=True)
    assert len(own) == 6 * (1 + (rates == "learned")) + (not discrete)
    for a, b in zip(ours, theirs, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_the_gradient_through_the_steps_is_that_of_finite_differences() -> None:
    """With values of zero, through which no gradient goes, nothing is held constant."""
    agent, seen = agent_of(CHOICES), lives(8, CHOICES)
    with torch.no_grad():
        agent.weights[-2][-1] = 0
        agent.weights[-1][-1] = 0
    mix = torch.randn(8, ROWS, 3, generator=stream(2), dtype=torch.float64)

    def score() -> Tensor:
        return (agent(seen, agent.initial_state(ROWS)).policy.logits * mix).sum()

    score().backward()
    for weight in agent.weights[:5]:
        direction = torch.randn(weight.shape, generator=stream(3), dtype=torch.float64)
        if weight is agent.weights[4]:
            direction[-1] = 0
        with torch.no_grad():
            weight += 1e-5 * direction
            up = score()
            weight -= 2e-5 * direction
            down = score()
            weight += 1e-5 * direction
        slope = float((weight.grad * direction).sum())
        assert slope == pytest.approx(float(up - down) / 2e-5, rel=1e-6)


def test_first_order_changes_the_gradient_and_not_the_values() -> None:
    seen = lives(8, CHOICES)
    found, slopes = [], []
    for first_order in (False, True):
        agent = agent_of(CHOICES, first_order=first_order)
        found.append(read(agent, agent(seen, agent.initial_state(ROWS))))
        slopes.append(torch.autograd.grad(found[-1][H:].square().sum(), agent.weights[0])[0])
    assert torch.equal(*found)
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3


def test_steps_and_stretches_give_the_same_from_any_memory() -> None:
    """Rows begin their lives at different steps; a second call goes on from the first."""
    agent, seen = agent_of(CHOICES), lives(11, CHOICES)
    resets = torch.zeros(11, ROWS, dtype=torch.bool)
    resets[0] = True
    resets[4, 1] = resets[5, 2] = resets[9, 1] = True
    whole = agent(seen, agent.initial_state(ROWS), resets)
    state, found = agent.initial_state(ROWS), []
    for piece in (slice(0, 2), slice(2, 7), slice(7, 11)):
        out = agent(seen[piece], state, resets[piece])
        state = out.state
        found.append(read(agent, out))
    torch.testing.assert_close(torch.cat(found), read(agent, whole))
    for row, begins in ((0, [0]), (1, [0, 4, 9]), (2, [0, 5])):
        for first, last in zip(begins, [*begins[1:], 11], strict=True):
            life = agent(seen[first:last, [row]], agent.initial_state(1))
            ours = read(agent, whole)[first:last, [row]]
            torch.testing.assert_close(ours, read(agent, life))


@pytest.mark.parametrize("steps", [2, 3, 7, 9])
def test_the_memory_after_stretches_is_that_after_steps(steps) -> None:
    agent, seen = agent_of(CHOICES), lives(steps, CHOICES)
    state = agent.initial_state(ROWS)
    for x in seen:
        state = agent.step(x, state).state
    for ours, theirs in zip(
        agent(seen, agent.initial_state(ROWS)).state, state, strict=True
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs)


def test_lives_go_on_in_whole_stretches_where_all_rows_end_one(monkeypatch) -> None:
    agent, seen = agent_of(CHOICES), lives(11, CHOICES)
    whole = read(agent, agent(seen, agent.initial_state(ROWS)))
    first = agent(seen[: 2 * H], agent.initial_state(ROWS))

    def slow(*_):
        raise AssertionError("step by step is slow and not needed here")

    monkeypatch.setattr(agent, "_one_by_one", slow)
    rest = agent(seen[2 * H :], first.state, torch.zeros(11 - 2 * H, ROWS, dtype=torch.bool))
    torch.testing.assert_close(read(agent, rest), whole[2 * H :])


def test_one_step_of_gradient_makes_rewarded_actions_likelier() -> None:
    """Three pulls of arm 1 that pay, and arm 1 is likelier; without pay, it is not."""
    agent = agent_of(CHOICES)
    for pay, wanted in ((1.0, True), (-1.0, False)):
        seen = torch.zeros(H + 1, ROWS, INPUTS, dtype=torch.float64)
        seen[1:, :, 3], seen[1:, :, 5] = 1.0, 5 * pay
        out = agent(seen, agent.initial_state(ROWS)).policy.probs[..., 1]
        assert bool((out[H] > out[0]).all()) == wanted


def test_ppo_through_the_steps_learns_to_learn() -> None:
    """Two arms, of which one always pays: a life's second half earns more than its first."""
    env = Trial(Bandit(2, 20, "dependent-easy"))
    torch.manual_seed(0)
    agent = MAMLPolicy(env.observation_space, env.action_space, (16,), horizon=10, rate=1.0)
    settings = Settings(
        rows=64, segment=20, updates=60, learning_rate=5e-3, entropy=0.01, whole_trials=True
    )
    streams = Streams(*(stream(k) for k in range(4)))
    training = PPO(env, agent, settings, streams)
    for _ in range(60):
        training.update()
    played = play(env, agent, env.sample_tasks(2000, stream(7), "test"), stream(8), greedy=False)
    early, late = played.rewards[:10].mean(), played.rewards[10:].mean()
    assert late > early + 0.05


def test_it_lives_with_vectors_for_actions_and_with_the_names_of_sb3() -> None:
    env = Trial(PointRobot())
    agent = MAMLPolicy(env.observation_space, env.action_space, horizon=4)
    tasks = env.sample_tasks(3, stream(), "test")
    played = play(env, agent, tasks, stream(1), greedy=False)
    assert torch.isfinite(played.returns).all()
    seen = np.zeros((3, *env.observation_space.shape), np.float32)
    action, memory = agent.predict(seen, deterministic=True)
    assert action.shape == (3, *env.action_space.shape)
    assert (memory[-1] == 1).all()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"horizon": 0}, "horizon=0: must be a whole number >= 1"),
        ({"rate": 0.0}, "rate=0.0: must be greater than 0 and finite"),
        ({"rates": "some"}, "rates='some' is unknown: choose one of fixed, learned"),
        ({"surrogate": "a"}, "surrogate='a' is unknown: choose one of plain, ratio"),
        ({"baseline": "a"}, "baseline='a' is unknown: choose one of critic, linear"),
        ({"value_unit": -1.0}, "value_unit=-1.0: must be greater than 0 and finite, or None"),
    ],
)
def test_what_is_out_of_range_is_refused(option, said) -> None:
    with pytest.raises(ValueError) as refusal:
        MAMLPolicy(SEEN, CHOICES, **option)
    assert str(refusal.value) == said
