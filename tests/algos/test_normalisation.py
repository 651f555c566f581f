"""What agents learn of the size of what they see and earn, against numpy on all of it."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from streams import stream

from metarl_lib.algos import PPO, ActorCritic, MAMLPolicy, Settings, Streams
from metarl_lib.algos.normalisation import LIMIT, RunningMoments
from metarl_lib.cores import GRU, MetODS
from metarl_lib.envs.bandit import Bandit
from metarl_lib.envs.point_robot import PointRobot
from metarl_lib.envs.trial import Trial


def box(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_moments_are_those_of_all_that_was_seen(double) -> None:
    moments, parts = RunningMoments(3), []
    for seed, shape in enumerate([(5, 3), (1, 3), (4, 7, 3), (2, 3), (100, 3)]):
        part = torch.randn(shape, generator=stream(seed)) * torch.tensor([1.0, 20.0, 0.01]) + seed
        moments.see(part)
        parts.append(part.reshape(-1, 3).numpy())
        every = np.concatenate(parts)
        np.testing.assert_allclose(moments.mean, every.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.variance, every.var(0), rtol=1e-10)
        np.testing.assert_allclose(moments.size, np.sqrt((every**2).mean(0) + 1e-8), rtol=1e-9)
        assert moments.count == len(every)
    scaled = moments(torch.from_numpy(every))
    expected = (every - every.mean(0)) / np.sqrt(every.var(0) + 1e-8)
    np.testing.assert_allclose(scaled, expected.clip(-10, 10), atol=1e-9)


def test_before_anything_is_seen_vectors_pass() -> None:
    vectors = torch.tensor([[1.0, -2.0]])
    assert torch.allclose(RunningMoments(2)(vectors), vectors)
    assert RunningMoments(2).size.tolist() == [1.0, 1.0]


def test_what_lies_far_out_is_cut_off_and_what_never_varies_is_zero() -> None:
    moments = RunningMoments(2)
    moments.see(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    assert moments(torch.tensor([[1e6, 5.0], [-1e6, 5.0]])).tolist() == [[LIMIT, 0], [-LIMIT, 0]]


def agents(**options):
    torch.manual_seed(0)
    env = Trial(PointRobot(steps=6))
    spaces_ = env.observation_space, env.action_space
    size = env.observation_space.shape[0]
    encoder = torch.nn.Sequential(torch.nn.Linear(size, 4), torch.nn.Tanh())
    return {
        "gru": ActorCritic(GRU(size, 5), *spaces_, **options),
        "metods": ActorCritic(MetODS(4, 5, 2), *spaces_, encoder=encoder, **options),
        "maml": MAMLPolicy(*spaces_, (5,), horizon=3, **options),
    }


def far(*shape: int) -> torch.Tensor:
    """Observations whose numbers have means and sizes of their own."""
    units = torch.logspace(-2, 2, shape[-1])
    return units * (torch.randn(shape, generator=stream(9)) + 3)


@pytest.mark.parametrize("name", ["gru", "metods"])
def test_an_agent_that_normalises_is_the_plain_one_on_normalised_observations(name) -> None:
    plain, agent = agents()[name], agents(normalise=True)[name]
    xs = far(6, 3, plain.inputs)
    agent.take_in(xs[:4], torch.zeros(4, 3))
    every = xs[:4].reshape(-1, plain.inputs)
    scaled = (xs - every.mean(0)) / every.std(0, correction=0)
    told, found = plain(scaled, plain.initial_state(3)), agent(xs, agent.initial_state(3))
    torch.testing.assert_close(found.policy.mean, told.policy.mean, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.values, told.values, atol=1e-4, rtol=1e-3)
    memory = agent.initial_state(3)
    for t, x in enumerate(xs):
        out = agent.step(x, memory)
        memory = out.state
        torch.testing.assert_close(out.values, found.values[t], atol=1e-5, rtol=1e-4)


def test_maml_sees_normalised_observations_and_learns_from_rewards_as_they_are(double) -> None:
    """Its first stretch is the plain network's; its step uses the raw actions and rewards."""
    plain, agent = agents()["maml"], agents(normalise=True)["maml"]
    xs = far(6, 3, plain.inputs)
    xs[..., -1] = 0
    agent.take_in(xs, torch.zeros(6, 3))
    every = xs.reshape(-1, plain.inputs)
    scaled = (xs - every.mean(0)) / (every.var(0, correction=0) + 1e-8).sqrt()

    def adapt(weights, seen):  # the plain agent's, that is shown both
        raw, normal = seen[..., : plain.inputs], seen[..., plain.inputs :]
        looks = iter([normal, normal[:, :-1]])
        plain.look = lambda _: next(looks)
        return MAMLPolicy.adapt(plain, weights, raw)

    weights = tuple(w.expand(3, *w.shape) for w in plain.weights)
    both = torch.cat([xs, scaled], -1)[:4].transpose(0, 1)
    expected = adapt(weights, both)
    found = agent.adapt(weights, xs[:4].transpose(0, 1))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, atol=1e-5, rtol=1e-4)
    out = agent(xs, agent.initial_state(3))
    memory = agent.initial_state(3)
    for t, x in enumerate(xs):
        one = agent.step(x, memory)
        memory = one.state
        torch.testing.assert_close(out.policy.mean[t], one.policy.mean, atol=1e-5, rtol=1e-4)


def training(agent, env, **settings) -> PPO:
    chosen = Settings(rows=4, segment=6, updates=3, **settings)
    return PPO(env, agent, chosen, Streams(*map(stream, range(4))))


def test_training_takes_in_each_segment_once_after_it_has_learned_from_it() -> None:
    env = Trial(PointRobot(steps=6))
    ppo = training(agents(normalise=True, value_unit=None)["gru"], env)
    model, seen, returns = ppo.model, [], []
    take_in = model.take_in

    def watch(observations, earned) -> None:
        seen.append(observations.reshape(-1, model.inputs).clone())
        returns.append(earned.flatten().clone())
        take_in(observations, earned)

    model.take_in = watch
    for k in range(3):
        if seen:
            every, paid = torch.cat(seen), torch.cat(returns)
            torch.testing.assert_close(model.seen.mean, every.mean(0), atol=1e-5, rtol=1e-4)
            rms = paid.square().mean().sqrt()
            torch.testing.assert_close(model.value_unit, rms, atol=1e-5, rtol=1e-4)
        ppo.update()
        assert len(seen) == k + 1, "once a segment, not once a pass"
    assert 0 < float(model.value_unit) != 1


def test_returns_that_are_a_hundred_times_as_large_give_the_same_agent() -> None:
    """Once the unit is known, the policy, the loss and the value head learn as before."""

    class Rich(Bandit):
        pay = 1.0

        def step(self, state, action, generator):
            state, step = super().step(state, action, generator)
            return state, step._replace(reward=self.pay * step.reward)

    found = []
    for pay in (1.0, 100.0):
        bandit = Rich(3, 6)
        bandit.pay = pay
        env = Trial(bandit, reward_input=False)
        torch.manual_seed(1)
        model = ActorCritic(
            GRU(env.observation_space.shape[0], 5), env.observation_space, env.action_space,
            value_unit=None,
        )  # fmt: skip
        with torch.no_grad():
            model.value_head.weight.zero_()  # so that what is earned is the rewards' alone
        ppo = training(model, env)
        segment, _ = ppo.collect()
        model.take_in(segment.observations, segment.rewards)
        numbers = ppo.learn(segment)
        found.append((numbers, [p.detach().clone() for p in model.parameters()]))
    (one, weights), (hundred, others) = found
    assert hundred == pytest.approx(one, rel=1e-4, abs=1e-6)
    for w, other in zip(weights, others, strict=True):
        torch.testing.assert_close(w, other, atol=2e-4, rtol=1e-3)


def test_what_was_taken_in_is_kept_with_the_agent() -> None:
    agent = agents(normalise=True, value_unit=None)["metods"]
    agent.take_in(far(5, 2, agent.inputs), 50 + far(5, 2))
    again = agents(normalise=True, value_unit=None)["metods"]
    again.load_state_dict(agent.state_dict())
    assert float(again.value_unit) == float(agent.value_unit) > 1
    x = far(1, 2, agent.inputs)[0]
    for f, e in zip(
        again.step(x, again.initial_state(2)).state, agent.step(x, agent.initial_state(2)).state,
        strict=True,
    ):  # fmt: skip
        assert torch.equal(f, e)
    plain = agents()["metods"].state_dict()
    assert not [name for name in plain if "seen" in name or "earned" in name or "unit" in name]


@pytest.mark.parametrize("unit", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bad_unit_is_one_clear_line(unit) -> None:
    with pytest.raises(ValueError, match=r"^value_unit=.*must be greater than 0.*or None$"):
        agents(value_unit=unit)
