"""Whole lives of learners, V losses times W tasks in one batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from metarl_lib.algos.learners import Learners, LifeSettings, Stretch
from metarl_lib.algos.loss_network import LossNetwork
from metarl_lib.envs.base import BoundedEnv, map_tree, where_rows


class Lived(NamedTuple):
    """What V W lives earned.

    `rewards` and `ended` are `[U, V, W]`, at each step, and where an episode ended with it;
    `fitness` is `[V, W]`, the mean return of the episodes that follow the last update.
    """

    rewards: Tensor
    ended: Tensor
    fitness: Tensor


class LifeStreams(NamedTuple):
    """Random streams of a batch of lives, all from one key."""

    tasks: torch.Generator
    environment: torch.Generator
    actions: torch.Generator
    init: torch.Generator
    minibatches: torch.Generator


class Lives:
    """Lives of U steps: act for M steps, descend the loss, and so on, from fresh weights.

    All V losses are lived through with common random numbers: the same W tasks, initial
    weights, noise of actions, minibatches and starts of episodes. So they differ in fitness by
    what they are alone, and what a loss's lives earn does not depend on which other losses
    are in the batch. (Draws inside a step of the environment are the exception.)

    Args:
        env: what the learners live in; an episode's end starts another with the same task.
        settings: how they live.

    Raises:
        ValueError: for spaces other than flat boxes.
    """

    def __init__(self, env: BoundedEnv, settings: LifeSettings) -> None:
        self.env, self.settings = env, settings
        sizes = []
        for name in ("observation_space", "action_space"):
            space = getattr(env, name)
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise ValueError(f"{name}={space}: must be a flat Box")
            sizes.append(space.shape[0])
        self.network = LossNetwork(*sizes)

    def live(
        self,
        phi: Float[Tensor, "V P"] | None,
        alpha: float,
        learners: int,
        key: tuple[int, ...],
        *,
        split: str = "train",
        tasks: Any = None,
    ) -> Lived:
        """Live V W lives from birth to end.

        Args:
            phi: parameters of V losses; None for one of PPO alone.
            alpha: α, the weight of PPO's loss.
            learners: W.
            key: whole numbers >= 0 that all draws depend on.
            split: of the tasks.
            tasks: W tasks to live in, rather than drawn ones.
        """
        s, streams = self.settings, life_streams(key)
        losses = None if phi is None or alpha == 1 else self.network.layers(phi)
        copies = 1 if phi is None else len(phi)
        world = _World(self.env, tasks, learners, copies, split, streams, key)
        agent = Learners(self.network, s, learners, copies, streams.init)
        found: list[tuple[Tensor, Tensor]] = []
        for _ in range(s.steps // s.stretch):
            steps = [world.step(agent) for _ in range(s.stretch)]
            stretch = Stretch(*(torch.stack(column) for column in zip(*steps, strict=True)))
            orders = [
                torch.randperm(s.stretch, generator=streams.minibatches) for _ in range(s.passes)
            ]
            agent.learn(stretch, losses, alpha, orders)
            found.append((stretch.rewards, stretch.ended))
        rewards, ended = (torch.cat(column) for column in zip(*found, strict=True))
        shape = -1, copies, learners
        fitness = world.episodes(agent, s.test_episodes).reshape(copies, learners)
        return Lived(rewards.reshape(shape), ended.reshape(shape), fitness)


class _World:
    """The environment's rows of a batch of lives."""

    def __init__(
        self, env: BoundedEnv, tasks: Any, learners: int, copies: int, split: str,
        streams: LifeStreams, key: tuple[int, ...],
    ) -> None:  # fmt: skip
        self.env, self.copies, self.streams, self.key = env, copies, streams, key
        self.tasks = env.sample_tasks(learners, streams.tasks, split) if tasks is None else tasks
        self.learners, self.time = learners, 0
        self.state, self.observation = self._fresh()

    def _fresh(self) -> tuple[Any, Tensor]:
        """First states; they depend on the task's number and the time alone."""
        stream = _generator((*self.key, self.time), 1)[0]
        return map_tree(
            lambda t: t.repeat(self.copies, *(1,) * (t.ndim - 1)),
            self.env.reset(self.tasks, stream),
        )

    def step(self, agent: Learners) -> tuple[Tensor, ...]:
        """One step of all rows; what a `Stretch` is made of."""
        seen = self.observation
        shape = self.learners, agent.network.actions
        noise = torch.randn(shape, generator=self.streams.actions).repeat(self.copies, 1)
        action = agent.act(seen, noise)
        self.state, step = self.env.step(self.state, action, self.streams.environment)
        self.time += 1
        self.observation = step.observation
        ended = step.terminated | step.truncated
        if bool(ended.any()):
            self.state, self.observation = where_rows(
                ended, self._fresh(), (self.state, self.observation)
            )
        return seen, action, step.reward, step.terminated, ended, step.observation

    def episodes(self, agent: Learners, count: int) -> Float[Tensor, " L"]:
        """The mean return of whole episodes that start now."""
        self.state, self.observation = self._fresh()
        total = torch.zeros(len(self.observation))
        left = torch.full_like(total, count, dtype=torch.long)
        while bool((left > 0).any()):
            _, _, reward, _, ended, _ = self.step(agent)
            total += torch.where(left > 0, reward, 0.0)
            left -= ended.long()
        return total / count


def life_streams(key: tuple[int, ...]) -> LifeStreams:
    """The streams of a key."""
    return LifeStreams(*_generator(key, len(LifeStreams._fields)))


def _generator(key: tuple[int, ...], count: int) -> list[torch.Generator]:
    seeds = np.random.SeedSequence(list(key)).generate_state(count, np.uint64)
    return [torch.Generator().manual_seed(int(seed >> 1)) for seed in seeds]
