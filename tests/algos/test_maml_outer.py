"""What a gradient step may use of what was sampled, and an outer loop for what comes after it."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from streams import stream
from torch import Tensor
from torch.func import grad, hessian, vmap

from metarl_lib.algos import AfterSteps, EachEpisode, MAMLPolicy, Settings, Streams, WholeLife
from metarl_lib.algos.linear_baseline import fit
from metarl_lib.algos.maml_policy import RowSteps, in_episode
from metarl_lib.algos.ppo import Segment
from metarl_lib.envs.bandit import Bandit
from metarl_lib.envs.point_robot import PointRobot
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.meta_training import play

EXACTLY = {"dtype": torch.float64}
STEPS = 4  # of a stretch: two episodes of two steps, which both begin in state 0
FOLLOWING = torch.tensor([[[0.8, 0.2], [0.3, 0.7]], [[0.4, 0.6], [0.9, 0.1]]], **EXACTLY)
PAID = torch.tensor([[1.0, 0.0], [-0.5, 2.0]], **EXACTLY)
BASELINE = torch.tensor([0.7, -1.3], **EXACTLY)


def agent_of(surrogate: str) -> MAMLPolicy:
    """An agent whose network takes a state, one-hot, and has a few weights, not nearly even."""
    torch.manual_seed(0)
    seen = spaces.Box(-np.inf, np.inf, (2 + 2 + 2,), np.float32)
    agent = MAMLPolicy(
        seen, spaces.Discrete(2), (2,), horizon=STEPS, surrogate=surrogate, state_only=True
    ).double()
    with torch.no_grad():
        for weight in agent.weights:
            weight.normal_()
    return agent


class Stretches:
    """All 64 stretches of two episodes, how likely they are, and what they earn."""

    def __init__(self) -> None:
        draws = torch.cartesian_prod(*[torch.arange(2)] * 6)  # a_0, s_1, a_1, a_2, s_3, a_3
        start = torch.zeros(len(draws), dtype=torch.long)
        self.states = torch.stack([start, draws[:, 1], start, draws[:, 4]], 1)
        self.actions = draws[:, [0, 2, 3, 5]]
        first = FOLLOWING[0, draws[:, 0], draws[:, 1]]
        self.luck = first * FOLLOWING[0, draws[:, 3], draws[:, 4]]
        self.rewards = PAID[self.states, self.actions]
        self.seen = torch.nn.functional.one_hot(self.states, 2).double()

    def stretch(self, agent: MAMLPolicy, weights: tuple[Tensor, ...]) -> RowSteps:
        """With the returns of the rest of the episode, less a number that the state decides."""
        a, b = self.rewards[:, ::2], self.rewards[:, 1::2]
        to_come = torch.stack([a + b, b], -1).flatten(1)
        ended = torch.tensor([False, True] * 2).expand(64, -1)
        lived = RowSteps(
            self.seen, self.actions, to_come - BASELINE[self.states], in_episode(ended),
            torch.zeros_like(to_come),
        )  # fmt: skip
        log_probs = vmap(agent.log_probs, (None, 0))(weights, lived)
        return lived._replace(log_probs=log_probs.detach())

    def chances(self, agent: MAMLPolicy, weights: tuple[Tensor, ...]) -> Tensor:
        lived = RowSteps(self.seen, self.actions, *[torch.zeros(64, STEPS)] * 3)
        log_probs = vmap(agent.log_probs, (None, 0))(weights, lived)
        return self.luck * log_probs.sum(1).exp()


def flat(agent: MAMLPolicy) -> tuple[Tensor, list[int], list[torch.Size]]:
    sizes = [w.numel() for w in agent.weights]
    shapes = [w.shape for w in agent.weights]
    return torch.cat([w.detach().reshape(-1) for w in agent.weights]), sizes, shapes


@pytest.mark.parametrize("surrogate", ["plain", "ratio"])
def test_derivatives_of_the_surrogates_against_the_sum_over_all_stretches(surrogate) -> None:
    """Both have the gradient of the mean return; only the ratio has its Hessian."""
    agent, world = agent_of(surrogate), Stretches()
    theta, sizes, shapes = flat(agent)

    def parts(theta: Tensor) -> tuple[Tensor, ...]:
        each = zip(theta.split(sizes), shapes, strict=True)
        return tuple(part.view(shape) for part, shape in each)

    lived = world.stretch(agent, parts(theta))
    sampled = world.chances(agent, parts(theta))
    assert float(sampled.sum()) == pytest.approx(1)

    def mean_return(theta: Tensor) -> Tensor:
        return (world.chances(agent, parts(theta)) * world.rewards.sum(1)).sum()

    def mean_loss(theta: Tensor) -> Tensor:
        return (sampled * vmap(agent.loss, (None, 0))(parts(theta), lived)).sum()

    slope, bend = -grad(mean_return)(theta) / STEPS, -hessian(mean_return)(theta) / STEPS
    assert slope.abs().max() > 0.01
    assert bend.abs().max() > 0.01
    torch.testing.assert_close(grad(mean_loss)(theta), slope)
    away = (hessian(mean_loss)(theta) - bend).norm() / bend.norm()
    assert (away < 1e-10) == (surrogate == "ratio")
    assert (away > 0.1) == (surrogate == "plain")


def test_the_ratio_changes_no_step_and_no_value_but_the_gradient_through_steps() -> None:
    found, slopes = [], []
    seen = torch.randn(2 * STEPS, 3, 6, generator=stream(1), **EXACTLY)
    seen[..., 2:4] = torch.nn.functional.one_hot(torch.randint(2, (8, 3), generator=stream(2)), 2)
    seen[..., 5] = (seen[..., 5] > 0.5).double()
    for surrogate in ("plain", "ratio"):
        agent = agent_of(surrogate)
        found.append(agent(seen, agent.initial_state(3)).policy.logits)
        slopes.append(torch.autograd.grad(found[-1][STEPS:].square().sum(), agent.weights[0])[0])
    torch.testing.assert_close(*found)
    assert (found[0][STEPS:] - found[0][:STEPS]).abs().max() > 1e-3
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3


def test_standardised_advantages_forget_how_much_a_task_pays() -> None:
    """Twice the rewards, or others that are all higher, change a step in units, and not this."""
    advantages = torch.randn(STEPS, 3, generator=stream(5), **EXACTLY)
    agent = agent_of("plain")
    assert torch.equal(agent.in_their_unit(advantages), advantages / agent.value_unit)
    agent.standardised = True
    found = agent.in_their_unit(advantages)
    for b in range(3):
        row = [float(a) for a in advantages[:, b]]
        mean = sum(row) / STEPS
        spread = (sum((a - mean) ** 2 for a in row) / STEPS) ** 0.5
        assert found[:, b].tolist() == pytest.approx([(a - mean) / spread for a in row])
    torch.testing.assert_close(agent.in_their_unit(2 * advantages + 5), found)


def test_steps_of_an_episode_up_to_each_step() -> None:
    ended = torch.rand(5, 7, generator=stream(3)) < 0.3
    found = in_episode(ended)
    for b in range(5):
        for t in range(7):
            for k in range(7):
                inside = k <= t and not bool(ended[b, k:t].any())
                assert bool(found[b, t, k]) == inside


def test_the_network_sees_states_alone_and_the_steps_all() -> None:
    agent = agent_of("plain")
    seen = torch.randn(2 * STEPS, 3, 6, generator=stream(4), **EXACTLY)
    seen[..., 2:] = 0
    paid = seen.clone()
    paid[1:, :, 4] = 1.0
    ours, theirs = (agent(x, agent.initial_state(3)).policy.logits for x in (seen, paid))
    assert torch.equal(ours[:STEPS], theirs[:STEPS])
    assert (ours[STEPS:] - theirs[STEPS:]).abs().min() > 0


def training_of(
    surrogate: str, updates: int = 60, segment: int = 20, *, loop=AfterSteps, **options
) -> WholeLife:
    """Two arms, one of which always pays, after a gradient step on ten pulls."""
    env = Trial(Bandit(2, segment, "dependent-easy"))
    torch.manual_seed(0)
    agent = MAMLPolicy(
        env.observation_space, env.action_space, (16,), horizon=10, rate=1.0,
        surrogate=surrogate, state_only=True, **options,
    )  # fmt: skip
    settings = Settings(
        rows=64, segment=segment, updates=updates, learning_rate=5e-3, entropy=0.0,
        whole_trials=True, discount=0.9, gae_lambda=0.8,
    )  # fmt: skip
    return loop(env, agent, settings, Streams(*(stream(k) for k in range(4))))


def plain_advantages(lived: Segment, values: Tensor, following: Tensor, first: int = 0) -> Tensor:
    """Of the steps from `first` on, one row after the other."""
    steps = range(first, len(lived.rewards))
    plain = [[0.0] * 64 for _ in steps]
    for b in range(64):
        ahead = 0.0
        for t in reversed(steps):
            on = 0.0 if bool(lived.ended[t, b]) else 1.0
            after, now = following[t - first, b], values[t - first, b]
            delta = lived.rewards[t, b] + 0.9 * on * after - now
            ahead = plain[t - first][b] = float(delta) + 0.9 * 0.8 * on * ahead
    return torch.tensor(plain)


@pytest.mark.parametrize("baseline", ["critic", "linear"])
@pytest.mark.parametrize(
    ("loop", "segment", "first"),
    [(AfterSteps, 20, 10), (AfterSteps, 21, 20), (AfterSteps, 30, 20), (AfterSteps, 31, 30),
     (WholeLife, 20, 0)],
)  # fmt: skip
def test_only_what_comes_after_the_last_step_is_judged(loop, segment, first, baseline) -> None:
    """The critic's targets are the same whatever is judged, and compared with what."""
    training = training_of("plain", segment=segment, loop=loop, baseline=baseline)
    lived, _ = training.collect()
    counted, returns = training.judge(lived)
    advantages = plain_advantages(lived, lived.values, lived.next_values)
    torch.testing.assert_close(returns, advantages + lived.values, rtol=1e-4, atol=1e-5)
    late = advantages[first:]
    if baseline == "linear":
        looked = training.model.look(lived.observations[first:])
        own = fit(looked, lived.rewards[first:], lived.ended[first:], 0.9)
        late = plain_advantages(lived, *own, first)
    expected = (late - late.mean()) / late.std()
    assert torch.equal(counted[:first], torch.zeros(first, 64))
    torch.testing.assert_close(counted[first:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("baseline", ["critic", "linear"])
@pytest.mark.parametrize(
    ("loop", "first", "length"), [(AfterSteps, 40, 20), (EachEpisode, 0, 20), (WholeLife, 0, 80)]
)
def test_credit_ends_with_the_episode_or_with_the_life(loop, first, length, baseline) -> None:
    """Four episodes of twenty steps; a gradient step after two of them."""
    env = Trial(PointRobot(), 4)
    torch.manual_seed(0)
    agent = MAMLPolicy(
        env.observation_space, env.action_space, (8,), horizon=40, rate=0.1, state_only=True,
        baseline=baseline,
    )  # fmt: skip
    settings = Settings(
        rows=64, segment=80, updates=1, whole_trials=True, discount=0.9, gae_lambda=0.8
    )
    training = loop(env, agent, settings, Streams(*(stream(k) for k in range(4))))
    lived, _ = training.collect()
    counted, returns = training.judge(lived)
    over = (torch.arange(80) % length == length - 1)[:, None].expand(80, 64)
    lived = lived._replace(ended=over)
    advantages = plain_advantages(lived, lived.values, lived.next_values)
    if loop is not WholeLife:  # a life that the clock ends goes on, as far as its value is asked
        torch.testing.assert_close(returns, advantages + lived.values, rtol=1e-4, atol=1e-5)
    late = advantages[first:]
    if baseline == "linear":
        looked = agent.look(lived.observations[first:])
        own = fit(looked, lived.rewards[first:], over[first:], 0.9)
        late = plain_advantages(lived, *own, first)
    elif loop is WholeLife:
        return
    expected = (late - late.mean()) / late.std()
    torch.testing.assert_close(counted[first:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("baseline", ["critic", "linear"])
@pytest.mark.parametrize("surrogate", ["plain", "ratio"])
def test_a_start_is_learned_from_which_a_step_goes_to_the_arm_that_pays(
    surrogate, baseline
) -> None:
    training = training_of(surrogate, baseline=baseline)
    for _ in range(60):
        training.update()
    env, agent = training.env, training.model
    tasks = env.sample_tasks(2000, stream(7), "test")
    played = play(env, agent, tasks, stream(8), greedy=False)
    best = (played.actions == tasks.means.argmax(-1)).float().mean(1)
    assert best[:10].mean() == pytest.approx(0.5, abs=0.1)
    assert best[10:].mean() > 0.7


@pytest.mark.parametrize("loop", [AfterSteps, WholeLife])
def test_lives_without_a_step_are_refused(loop) -> None:
    with pytest.raises(ValueError, match="segment=10: must be longer than the 10 steps"):
        training_of("plain", segment=10)
    whole = training_of("plain")
    with pytest.raises(ValueError, match="whole_trials=False: must be True"):
        loop(whole.env, whole.model, Settings(segment=20), whole.streams)
