"""PEARL's gradient steps against plain loops, who hears of what, and whether it learns."""

import copy
import math

import jaxtyping
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import TanhTransform
from toy_envs import Counting
from trainings import ACTIONS, double, streams

from metarl_lib.algos import PEARL, PEARLAgent, PEARLSettings, Streams
from metarl_lib.algos.pearl_agent import live
from metarl_lib.envs.base import Step
from metarl_lib.envs.point_robot import PointRobot

SMALL = {
    "tasks": 5, "collected": 2, "prior_episodes": 1, "posterior_episodes": 2,
    "gradient_steps": 3, "meta_batch": 3, "batch": 4, "context": 6, "capacity": 20,
    "temperature": 0.3, "kl_weight": 0.2, "discount": 0.9, "polyak": 0.1,
}  # fmt: skip
SEEN = spaces.Box(-np.inf, np.inf, (3,), np.float32)


class Bounded(Counting):
    """Counting, which says how long an episode can last: five steps."""

    max_steps = 5


@pytest.fixture(autouse=True)
def _double():
    with double():
        yield


def training(seed: int = 0, lesson=None, agent=None, **options) -> PEARL:
    torch.manual_seed(0)
    env = Bounded(ACTIONS["vectors"])
    agent = {"latent": 2, "hidden": (6, 5), "encoder_hidden": (7,)} | (agent or {})
    model = PEARLAgent(env.observation_space, env.action_space, **agent)
    settings = PEARLSettings(**(SMALL | options))
    return PEARL(env, model, settings, streams(seed), lesson)


def collected(**options) -> PEARL:
    ours = training(**options)
    ours.collect(torch.arange(5), 1)
    return ours


def mlp(layers, x):
    """A network of rectified units, written out."""
    for k, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if k < len(layers) - 1:
            x = torch.where(x > 0, x, 0.0)
    return x


def layers_of(network):
    return [(m.weight, m.bias) for m in network if hasattr(m, "weight")]


def layers_of_twin(twin, j):
    return [(w[j].T, b[j, 0]) for w, b in zip(twin.weights, twin.biases, strict=True)]


def plain_policy(model, x):
    mean, log_std = mlp(layers_of(model.policy.network), x).chunk(2)
    return mean, log_std


def plain_sample(model, x, noise):
    """An action and its density by `torch.distributions`."""
    mean, log_std = plain_policy(model, x)
    action = torch.tanh(mean + log_std.exp() * noise)
    law = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=0))
    return action, law.log_prob(action).sum()


def plain_losses(ours: PEARL):
    """Both losses of a step by loops over tasks and transitions, the critic's step between."""
    s, model = ours.settings, copy.deepcopy(ours.model)
    stream = torch.Generator()
    stream.set_state(ours.streams.minibatches.get_state())
    tasks = torch.randint(s.tasks, (s.meta_batch,), generator=stream)
    batch = ours.replay.draw(tasks, s.batch, stream)
    context, among = ours.contexts.draw(tasks, s.context, stream)
    of_z = torch.empty(s.meta_batch, 2).normal_(generator=stream)
    after, now = (torch.empty(s.meta_batch, s.batch, 2) for _ in range(2))
    after.normal_(generator=stream)
    now.normal_(generator=stream)
    squares, kls, zs = [], [], []
    for m in range(s.meta_batch):
        precision, weighted = torch.ones(2), torch.zeros(2)
        for row in context[m][among[m]]:
            found = mlp(layers_of(model.encoder.network), row)
            each = torch.log1p(found[2:].exp())
            precision, weighted = precision + each, weighted + each * found[:2]
        mean, std = weighted / precision, precision.rsqrt()
        z = mean + std * of_z[m]
        zs.append(z.detach())
        prior = Normal(torch.zeros(2), torch.ones(2))
        kls.append(kl_divergence(Independent(Normal(mean, std), 1), Independent(prior, 1)))
        for b in range(s.batch):
            following = batch.following[m, b]
            with torch.no_grad():
                action, log_prob = plain_sample(model, torch.cat([following, z]), after[m, b])
                x = torch.cat([following, action, z])
                least = min(mlp(layers_of_twin(model.target, j), x) for j in range(2))
                on = 0.0 if batch.terminal[m, b] else 1.0
                y = batch.reward[m, b] + s.discount * on * (least - s.temperature * log_prob)
            x = torch.cat([batch.observation[m, b], batch.action[m, b], z])
            squares += [
                (mlp(layers_of_twin(model.critic, j), x) - y).square().squeeze() for j in range(2)
            ]
    count = s.meta_batch * s.batch
    critic_loss = 0.5 * sum(squares) / count + s.kl_weight * sum(kls) / s.meta_batch
    believers = [*model.critic.parameters(), *model.encoder.parameters()]
    slopes = torch.autograd.grad(critic_loss, believers)
    optimiser = torch.optim.Adam(believers, lr=s.learning_rate)
    for p, slope in zip(believers, slopes, strict=True):
        p.grad = slope
    optimiser.step()
    loss = 0.0
    for m in range(s.meta_batch):
        for b in range(s.batch):
            seen = batch.observation[m, b]
            action, log_prob = plain_sample(model, torch.cat([seen, zs[m]]), now[m, b])
            x = torch.cat([seen, action, zs[m]])
            least = min(mlp(layers_of_twin(model.critic, j), x) for j in range(2))
            loss = loss + (s.temperature * log_prob - least).squeeze() / count
    policy_slopes = torch.autograd.grad(loss, list(model.policy.parameters()))
    return critic_loss, slopes, believers, loss, policy_slopes


def test_a_gradient_step_is_that_of_plain_loops() -> None:
    """Losses, all gradients, the critic's new weights, and the slow copy after them."""
    ours = collected()
    with torch.no_grad():
        for p in ours.model.target.parameters():
            p.mul_(0.8)  # as if it had fallen behind
    before = [p.clone() for p in ours.model.target.parameters()]
    critic_loss, slopes, believers, loss, policy_slopes = plain_losses(ours)
    said = ours.learn()
    total = said["critic_loss"] + ours.settings.kl_weight * said["kl"]
    torch.testing.assert_close(total, critic_loss.detach())
    torch.testing.assert_close(said["policy_loss"], loss.detach())
    for mine, plain in zip(ours.believers, slopes, strict=True):
        torch.testing.assert_close(mine.grad, plain, rtol=1e-6, atol=1e-10)
        assert plain.abs().max() > 1e-6
    for mine, plain in zip(ours.believers, believers, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-8)
    for mine, plain in zip(ours.actors, policy_slopes, strict=True):
        torch.testing.assert_close(mine.grad, plain, rtol=1e-6, atol=1e-10)
        assert plain.abs().max() > 1e-6
    targets, critics = ours.model.target.parameters(), ours.model.critic.parameters()
    for slow, old, fast in zip(targets, before, critics, strict=True):
        torch.testing.assert_close(slow, 0.9 * old + 0.1 * fast)


def parts(ours: PEARL):
    """What a step draws, with a z that knows where it comes from."""
    stream = ours.streams.minibatches
    tasks = torch.arange(3)
    belief = ours.model.encoder(*ours.contexts.draw(tasks, 6, stream))
    z = belief.draw(stream).unsqueeze(1).expand(-1, 4, -1)
    return ours.replay.draw(tasks, 4, stream), belief, z


def heard(loss, parameters) -> list[bool]:
    """Which of the parameters a loss has a gradient for that is not 0."""
    slopes = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [slope is not None and bool(slope.any()) for slope in slopes]


def test_the_encoder_hears_of_bellman_and_prior_alone() -> None:
    ours = collected()
    batch, belief, z = parts(ours)
    encoder = list(ours.model.encoder.parameters())
    bellman, kl = ours.critic_losses(batch, belief, z)
    assert all(heard(bellman, encoder))
    assert all(heard(kl, encoder))
    assert not any(heard(bellman + kl, ours.actors))
    assert not any(p.requires_grad for p in ours.model.target.parameters())
    of_policy, _ = ours.policy_losses(batch.observation, z.detach())
    assert not any(heard(of_policy, encoder))
    assert all(heard(of_policy, ours.actors))
    untouched = {name: p.clone() for name, p in ours.model.named_parameters() if "policy" in name}
    rest = {n: p.clone() for n, p in ours.model.named_parameters() if "policy" not in n}
    ours._step("policy", ours.actors, of_policy)
    now = dict(ours.model.named_parameters())
    assert all(torch.equal(p, now[n]) for n, p in rest.items())
    assert not any(torch.equal(p, now[n]) for n, p in untouched.items())


class Watched(PointRobot):
    """Notes the first observations and every action; rows end after 3, 4, 5, … steps."""

    def __init__(self, **options) -> None:
        super().__init__(steps=6, **options)
        self.actions: list[torch.Tensor] = []

    def step(self, state, action, generator):
        self.actions.append(action)
        state, step = super().step(state, action, generator)
        early = state.time >= 3 + torch.arange(len(action)) % 5
        return state, step._replace(terminated=early, truncated=step.truncated & ~early)


def lived(env=None, rows: int = 4, **options):
    torch.set_default_dtype(torch.float32)  # which the point robot keeps to
    env = env or Watched()
    torch.manual_seed(0)
    model = PEARLAgent(env.observation_space, env.action_space, latent=2, hidden=(6,))
    tasks = env.sample_tasks(rows, torch.Generator().manual_seed(1))
    given = [torch.Generator().manual_seed(k) for k in (2, 3)]
    return live(env, model, tasks, 4, *given, **options), model, env


def test_a_life_is_what_the_environment_says() -> None:
    """Steps follow each other, rewards are those of the moves, ends are marked."""
    found, _, env = lived(bootstrap=False)
    steps = found.steps
    assert steps.observation.shape == (4, 4, 6, 2)
    assert found.real.sum(-1).tolist() == [[3] * 4, [4] * 4, [5] * 4, [6] * 4]
    torch.testing.assert_close(steps.following[:, :, :-1], steps.observation[:, :, 1:])
    assert not steps.observation[:, :, 0].any()
    torch.testing.assert_close(steps.following, steps.observation + 0.1 * steps.action)
    torch.testing.assert_close(steps.shown, -found.info["distance"])
    assert torch.equal(steps.reward, steps.shown)
    torch.testing.assert_close(found.returns, (steps.shown * found.real).sum(-1))
    torch.testing.assert_close(torch.stack(env.actions[:6], 1), steps.action[:, 0])
    last = found.real & ~torch.nn.functional.pad(found.real[..., 1:], (0, 1))
    assert torch.equal(steps.terminal & found.real, last & (torch.arange(4) < 4)[:, None, None])


def test_who_is_ended_by_the_clock_goes_on() -> None:
    """The fourth row lasts as long as an episode can; what ended before is over."""
    found, _, _ = lived(bootstrap=True)
    ends = (found.steps.terminal & found.real).any(-1)
    assert ends.all(1).tolist() == [True, True, True, False]
    assert not ends[3].any()


def test_what_is_learned_from_can_differ_from_what_is_shown() -> None:
    env = Watched(sparse=True, radius=0.5, goal_radius=0.5)
    found, _, _ = lived(env, lesson=lambda step: 5 - step.info["distance"])
    torch.testing.assert_close(found.steps.reward, 5 - found.info["distance"])
    near = found.info["distance"] <= 0.5
    shown = torch.where(near, 1 - found.info["distance"], 0.0)
    torch.testing.assert_close(found.steps.shown, shown)
    torch.testing.assert_close(found.returns, (shown * found.real).sum(-1))
    assert near.any()
    assert not near.all()
    torch.testing.assert_close(found.steps.context()[..., 4], shown)


@pytest.mark.parametrize("prior_episodes", [1, 3])
def test_the_belief_is_made_of_the_episodes_before(prior_episodes) -> None:
    """Of real steps only, and drawn from anew before each episode."""
    found, model, _ = lived(prior_episodes=prior_episodes)
    context = found.steps.context()
    for k in range(4):
        known = k if k >= prior_episodes else 0
        for row in range(4):
            rows = context[row, :known][found.real[row, :known]]
            expected = model.encoder(rows[None])
            for mine, plain in zip(found.beliefs, expected, strict=True):
                torch.testing.assert_close(mine[row, k], plain[0])
    unit = (found.drawn - found.beliefs.mean) / found.beliefs.variance.sqrt()
    assert len(unit.flatten().unique()) == unit.numel()
    assert unit.abs().max() < 4


def test_the_other_ways_to_believe() -> None:
    mean, _, _ = lived(way="mean")
    assert torch.equal(mean.drawn, mean.beliefs.mean)
    assert mean.drawn[:, 1:].all()
    prior, _, _ = lived(way="prior")
    assert not prior.beliefs.mean.any()
    assert (prior.beliefs.variance == 1).all()
    with pytest.raises(ValueError, match="way='none' is unknown: choose one of posterior, mean"):
        lived(way="none")


def test_actions_are_greedy_drawn_or_held() -> None:
    greedy, model, _ = lived(greedy=True)
    x = torch.cat([greedy.steps.observation, greedy.drawn[:, :, None].expand(-1, -1, 6, -1)], -1)
    with torch.no_grad():
        torch.testing.assert_close(greedy.steps.action, torch.tanh(model.policy(x)[0]))
    drawn, _, _ = lived()
    x = torch.cat([drawn.steps.observation, drawn.drawn[:, :, None].expand(-1, -1, 6, -1)], -1)
    with torch.no_grad():
        mean, log_std = model.policy(x)
    unit = (torch.atanh(drawn.steps.action) - mean) / log_std.exp()
    assert unit.std() == pytest.approx(1, abs=0.15)
    action = lived(hold=True, prior_episodes=3)[0].steps.action
    same = (action == action[:, :, :1]).all(-1).all(-1)
    assert torch.equal(same, torch.tensor([True, True, True, False]).expand(4, -1))
    assert len(action[:, :3, 0].flatten().unique()) == 4 * 3 * 2
    assert action.abs().max() < 1


def test_actions_fill_the_bounds_of_their_space() -> None:
    model = training().model  # bounds −0.5 … 1 and −1 … 0.25
    corners = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    expected = torch.tensor([[-0.5, -1.0], [1.0, 0.25], [0.25, -0.375]])
    torch.testing.assert_close(model.unit_to_bounds(corners), expected)


def test_collecting_fills_replay_and_contexts() -> None:
    ours = training()
    which = torch.tensor([4, 1])
    found = ours.collect(which, 1)
    assert ours.steps == int(found.real.sum())
    assert ours.replay.count.tolist() == [0, *[int(found.real[1].sum())], 0, 0,
                                          int(found.real[0].sum())]  # fmt: skip
    assert torch.equal(ours.contexts.rows[which], found.steps.context())
    assert torch.equal(ours.contexts.real[which], found.real)
    first = ours.replay.rows[4, : int(found.real[0].sum()), :3]
    assert torch.equal(first, found.steps.observation[0][found.real[0]])


def test_an_iteration_lives_and_learns(monkeypatch) -> None:
    """At first with every task, by the prior; then with a few different ones, as at a test."""
    ours, calls = training(), []
    collect = ours.collect

    def note(which, prior_episodes):
        calls.append((sorted(which.tolist()), prior_episodes))
        return collect(which, prior_episodes)

    monkeypatch.setattr(ours, "collect", note)
    ours.iteration()
    said = ours.iteration()
    assert calls[0] == ([0, 1, 2, 3, 4], 3)
    assert [call[1] for call in calls[1:]] == [1, 1]
    assert all(len(set(call[0])) == 2 for call in calls[1:])
    assert (ours.done, ours.learned) == (2, 6)
    assert set(said) == {
        "critic_loss", "kl", "policy_loss", "entropy", "return", "return_prior"
    }  # fmt: skip
    assert all(map(math.isfinite, said.values()))


@pytest.mark.parametrize("hold", [False, True])
def test_episodes_by_the_prior_hold_their_actions_where_that_is_wanted(hold) -> None:
    found = training(hold=hold).collect(torch.arange(5), 1).steps.action
    same = (found == found[:, :, :1]).all(-1).all(-1)
    assert torch.equal(same, torch.tensor([hold, False, False]).expand(5, -1))


def test_a_point_belief_is_not_held_to_the_prior() -> None:
    ours = collected(agent={"deterministic": True})
    assert float(ours.learn()["kl"]) == 0
    assert all(p.grad.any() for p in ours.model.encoder.parameters() if p.grad.ndim == 2)


def trained(ours: PEARL, iterations: int) -> dict[str, torch.Tensor]:
    for _ in range(iterations):
        ours.iteration()
    return ours.checkpoint()


def differing(one, other) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_a_training_resumed_is_one_that_never_stopped() -> None:
    """In a training that began elsewhere; its checkpoint does not change when it goes on."""
    straight = trained(training(), 4)
    half = trained(training(), 2)
    copied = {name: tensor.clone() for name, tensor in half.items()}
    resumed = training(seed=7)
    resumed.restore(half)
    assert not differing(resumed.checkpoint(), half)
    assert not differing(trained(resumed, 2), straight)
    assert not differing(half, copied)
    assert differing(half, straight)


@pytest.mark.parametrize("name", Streams._fields)
def test_every_stream_counts(name) -> None:
    def weight(ours: PEARL) -> torch.Tensor:
        return trained(ours, 1)["model.policy.network.0.weight"]

    given = streams(0)._replace(**{name: getattr(streams(5), name)})
    torch.manual_seed(0)
    plain = training()
    changed = PEARL(plain.env, copy.deepcopy(plain.model), plain.settings, given)
    assert not torch.equal(weight(training()), weight(changed))
    torch.manual_seed(9)
    assert torch.equal(weight(training()), weight(plain))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": 0}, "tasks=0: must be a whole number >= 1"),
        ({"prior_episodes": 0}, "prior_episodes=0: must be a whole number >= 1"),
        ({"batch": 2.5}, "batch=2.5: must be a whole number >= 1"),
        ({"posterior_episodes": -1}, "posterior_episodes=-1: must be a whole number >= 0"),
        ({"posterior_episodes": 0.5}, "posterior_episodes=0.5: must be a whole number >= 0"),
        ({"learning_rate": math.nan}, "learning_rate=nan: must be greater than 0"),
        ({"temperature": -1.0}, "temperature=-1.0: must be 0 or more"),
        ({"discount": 1.1}, "discount=1.1: must lie between 0 and 1"),
        ({"polyak": 2.0}, "polyak=2.0: must lie between 0 and 1"),
        ({"collected": 6}, "collected=6: must be at most the 5 tasks"),
    ],
)
def test_settings_out_of_range(unchecked, options, words) -> None:
    with pytest.raises(ValueError, match=words):
        PEARLSettings(**(SMALL | options))


@pytest.mark.parametrize(
    ("seen", "acts", "options", "words"),
    [
        (spaces.Discrete(3), ACTIONS["vectors"], {}, "observation_space=.*flat Box"),
        (SEEN, ACTIONS["choices"], {}, "action_space=.*flat Box"),
        (SEEN, SEEN, {}, "action_space=.*finite bounds"),
        (SEEN, ACTIONS["vectors"], {"latent": -1}, "latent=-1: must be a whole number >= 0"),
    ],
)
def test_spaces_and_sizes_that_do_not_fit(seen, acts, options, words) -> None:
    with pytest.raises(ValueError, match=words):
        PEARLAgent(seen, acts, **options)


class Signs:
    """Two steps that each pay the action times the sign of the task, of which nothing is seen."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    max_steps = 2

    def sample_tasks(self, batch, generator, split="train"):
        return 2.0 * torch.randint(2, (batch,), generator=generator) - 1

    def reset(self, tasks, generator):
        return (tasks, torch.zeros_like(tasks)), torch.zeros(len(tasks), 1)

    def step(self, state, action, generator):
        tasks, time = state
        ended = time + 1 >= 2
        nothing = torch.zeros(len(tasks), 1)
        reward = tasks * action[:, 0]
        return (tasks, time + 1), Step(nothing, reward, ended, torch.zeros_like(ended), {})


def test_it_learns_what_an_episode_tells(monkeypatch) -> None:
    """The first episode earns nothing on average, the second nearly all there is, 2."""
    torch.set_default_dtype(torch.float32)
    env = Signs()
    torch.manual_seed(0)
    model = PEARLAgent(
        env.observation_space, env.action_space, latent=1, hidden=(16,), encoder_hidden=(16,)
    )
    settings = PEARLSettings(
        tasks=20, collected=10, posterior_episodes=1, gradient_steps=50, iterations=7,
        meta_batch=16, batch=16, kl_weight=0.01, discount=0.0, temperature=0.05,
        learning_rate=1e-2,
    )  # fmt: skip
    ours = PEARL(env, model, settings, streams(1))
    ours.iteration()
    # The other iterations have the same shapes, which need no second check.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for _ in range(settings.iterations - 1):
        said = ours.iteration()
    given = [torch.Generator().manual_seed(k) for k in (4, 5)]
    tasks = env.sample_tasks(400, given[0])
    found = live(env, model, tasks, 2, *given, greedy=True).returns.mean(0)
    assert abs(found[0]) < 0.4
    assert found[1] > 1.3
    assert 0.3 < said["kl"] < 4  # one bit is 0.69 nats
