"""Batched lives against one life at a time, and what they do not depend on."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plain_epg import PlainLearner, PlainLoss
from streams import stream
from torch.nn.utils import vector_to_parameters

from metarl_lib.algos import LifeSettings, Lives
from metarl_lib.algos.learners import Learners, log_prob, mlp
from metarl_lib.algos.lives import life_streams
from metarl_lib.algos.loss_network import MEMORY, LossNetwork
from metarl_lib.envs.base import Step


class Walk:
    """Three numbers that an action pushes, and a goal; an episode ends when its task says so."""

    observation_space = spaces.Box(-math.inf, math.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    max_steps = 9

    def sample_tasks(self, batch, generator, split="train"):
        goal = torch.randn(batch, 3, generator=generator)
        return goal, torch.randint(5, 10, (batch,), generator=generator)

    def reset(self, tasks, generator):
        place = torch.randn(len(tasks[1]), 3, generator=generator)
        return (tasks, place, torch.zeros_like(tasks[1])), place

    def step(self, state, action, generator):
        tasks, place, time = state
        push = torch.cat([action, action.prod(1, keepdim=True)], 1).tanh()
        place = 0.9 * place + 0.3 * push
        time = time + 1
        reward = -(place - tasks[0]).square().sum(1)
        ended = time >= tasks[1]
        terminated = ended & (tasks[0][:, 0] > 0)
        step = Step(place, reward, terminated, ended & ~terminated, {})
        return (tasks, place, time), step


SMALL = {"steps": 30, "stretch": 10, "buffer": 21, "minibatch": 5, "hidden": 7, "test_episodes": 2}


def some_losses(network: LossNetwork, count: int) -> torch.Tensor:
    return torch.stack([network.initial(stream(k)) + 0.05 for k in range(count)])


def test_the_sizes_are_those_of_the_published_code() -> None:
    """A hopper's loss has 9,857 parameters there, 7 · 16 of them for a count that stays 0."""
    network = LossNetwork(11, 3)
    assert network.parameters == 9857 - 7 * 16
    assert sum(p.numel() for p in PlainLoss(network.described).parameters()) == network.parameters


def test_losses_and_their_gradients_are_those_of_plain_networks() -> None:
    network, losses, learners, steps, last = LossNetwork(3, 2), 2, 3, 47, 10
    phi = some_losses(network, losses).double()
    lives = losses * learners
    seen = torch.randn(lives, steps, network.seen, generator=stream(1), dtype=torch.float64)
    parts = [
        torch.randn(lives, *shape, generator=stream(2 + k), dtype=torch.float64).requires_grad_()
        for k, shape in enumerate([(steps, 2), (2,), (MEMORY,)])
    ]
    mean, log_std, memory = parts
    chosen = torch.tensor([7, 0, 4])
    layers = network.layers(phi)
    prepared = network.prepare(layers, seen, last)
    found = network(layers, prepared, mean, log_std, memory, chosen)
    gradients = torch.autograd.grad(found.sum(), parts)
    for life in range(lives):
        plain = PlainLoss(network.described).double()
        vector_to_parameters(phi[life // learners], plain.parameters())
        constant = [p[life].expand(steps, -1) for p in (log_std, memory, memory.detach())]
        whole = [torch.cat([seen[life], mean[life], constant[0], m], 1) for m in constant[1:]]
        value = plain(whole[1], whole[0][steps - last + chosen])
        assert found[life].item() == pytest.approx(value.item(), abs=1e-12)
        for mine, theirs in zip(gradients, torch.autograd.grad(value, parts), strict=True):
            assert torch.allclose(mine[life], theirs[life], atol=1e-12)
            assert float(theirs[life].abs().max()) > 1e-4


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("normalise", [False, True])
def test_lives_are_those_of_learners_that_live_alone(alpha, normalise, double) -> None:
    """Rewards of every step, through three updates of two minibatches and two passes each.

    In numbers of 64 bits, because Adam's first steps are signs, which rounding can turn.
    """
    settings = LifeSettings(
        **SMALL, passes=2, learner_rate=0.02, log_std=-0.3, normalise=normalise, clip=0.05
    )
    lives, losses, learners, key = Lives(Walk(), settings), 2, 2, (5, 1)
    phi = some_losses(lives.network, losses)
    lived = lives.live(phi, alpha, learners, key)
    assert lived.rewards.shape == (30, losses, learners)

    env = Walk()
    for v in range(losses):
        streams = life_streams(key)
        tasks = env.sample_tasks(learners, streams.tasks)
        born = Learners(lives.network, settings, learners, 1, streams.init)
        loss = PlainLoss(lives.network.described)
        vector_to_parameters(phi[v], loss.parameters())
        loss.requires_grad_(False)
        plain = [
            PlainLearner(
                settings, loss, [p[w].detach() for p in born.policy],
                [p[w].detach() for p in born.value],
                born.memory[w].detach(), born.log_std[w].detach(),
            )
            for w in range(learners)
        ]  # fmt: skip
        starts = restarts(env, tasks, key)
        state, observation = starts(0)
        time, rewards = 0, []
        while time < settings.steps + 2 * env.max_steps:
            noise = torch.randn(learners, 2, generator=streams.actions)
            action = torch.stack([p.act(observation[w], noise[w]) for w, p in enumerate(plain)])
            state, step = env.step(state, action, None)
            time += 1
            rewards.append(step.reward)
            ended = step.terminated | step.truncated
            if time <= settings.steps:
                for w, p in enumerate(plain):
                    p.steps.append(
                        (observation[w], action[w], step.reward[w], step.terminated[w], ended[w],
                         step.observation[w].clone())
                    )  # fmt: skip
            observation = step.observation.clone()
            fresh = starts(time)
            for w in range(learners):
                if ended[w] or time == settings.steps:
                    observation[w] = fresh[1][w]
                    state[1][w], state[2][w] = fresh[0][1][w], 0
            if time <= settings.steps and time % settings.stretch == 0:
                orders = [
                    torch.randperm(settings.stretch, generator=streams.minibatches)
                    for _ in range(settings.passes)
                ]
                for p in plain:
                    p.learn(alpha, orders)
        rewards = torch.stack(rewards)
        assert torch.allclose(lived.rewards[:, v], rewards[:30], atol=1e-8)
        after = rewards[30:]
        for w in range(learners):
            length = 2 * int(tasks[1][w])
            assert float(lived.fitness[v, w]) == pytest.approx(
                float(after[:length, w].sum() / 2), abs=1e-7
            )
    if alpha < 1:
        assert not torch.allclose(lived.rewards[-1, 0], lived.rewards[-1, 1], atol=1e-2)


def restarts(env, tasks, key):
    """The start of episodes at a time, as the library draws it."""

    def at(time):
        seed = np.random.SeedSequence([*key, time]).generate_state(1, np.uint64)[0]
        return env.reset(tasks, torch.Generator().manual_seed(int(seed >> np.uint64(1))))

    return at


def test_a_loss_lives_the_same_lives_whatever_is_beside_it() -> None:
    lives = Lives(Walk(), LifeSettings(**SMALL))
    phi = some_losses(lives.network, 4)
    together = lives.live(phi, 0.0, 3, (1, 2)).rewards
    for v in range(4):
        alone = lives.live(phi[v : v + 1], 0.0, 3, (1, 2)).rewards[:, 0]
        assert torch.allclose(together[:, v], alone, atol=1e-4)
    other = lives.live(phi[:1], 0.0, 3, (1, 3)).rewards[:, 0]
    assert not torch.allclose(together[:, 0], other, atol=1e-2)


def test_a_life_without_a_loss_is_that_of_ppo_alone() -> None:
    lives = Lives(Walk(), LifeSettings(**SMALL))
    alone = lives.live(None, 1.0, 3, (4,))
    beside = lives.live(some_losses(lives.network, 2), 1.0, 3, (4,))
    assert torch.allclose(alone.rewards[:, 0], beside.rewards[:, 1], atol=1e-5)


def test_given_tasks_are_lived_in() -> None:
    lives, env = Lives(Walk(), LifeSettings(**SMALL)), Walk()
    tasks = env.sample_tasks(3, stream(9))
    lived = lives.live(None, 1.0, 3, (4,), tasks=tasks)
    first = lived.ended[:, 0].float().argmax(0) + 1
    assert first.tolist() == tasks[1].tolist()


def test_log_probabilities_are_those_of_torch() -> None:
    mean, actions = torch.randn(2, 4, 5, 3, generator=stream()).unbind(0)
    log_std = torch.randn(4, 3, generator=stream(1))
    normal = torch.distributions.Normal(mean, log_std.exp()[:, None])
    assert torch.allclose(
        log_prob(mean, log_std, actions), normal.log_prob(actions).sum(-1), atol=1e-4
    )


def test_initial_layers_have_rows_of_their_lengths() -> None:
    agent = Learners(LossNetwork(3, 2), LifeSettings(**SMALL), 4, 2, stream())
    for matrix, length in zip(agent.policy[::2], (1.0, 1.0, 0.01), strict=True):
        assert torch.allclose(matrix.norm(dim=2), torch.tensor(length), rtol=1e-5)
        assert torch.equal(matrix[:4], matrix[4:]), "every loss has learners with equal weights"
    observations = torch.randn(8, 5, 3, generator=stream(1))
    assert float(mlp(agent.policy, observations).detach().abs().max()) < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0: must be a whole number >= 1"),
        ({"steps": 31}, "stretch=10: must divide steps=31"),
        ({"minibatch": 3}, "minibatch=3: must divide stretch=10"),
        ({"buffer": 20}, "buffer=20: must be >= 21"),
        ({"learner_rate": 0.0}, r"learner_rate=0\.0: must be greater than 0"),
        ({"discount": 1.5}, r"discount=1\.5: must lie between 0 and 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        LifeSettings(**{**SMALL, **options})
    assert "\n" not in str(refusal.value)


def test_other_spaces_are_refused() -> None:
    class Choices(Walk):
        action_space = spaces.Discrete(2)

    with pytest.raises(ValueError, match=r"action_space=Discrete\(2\): must be a flat Box"):
        Lives(Choices(), LifeSettings(**SMALL))
