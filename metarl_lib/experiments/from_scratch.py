"""Learners that know nothing of other tasks: an actor-critic, its return given or learned too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from metarl_lib.algos import MetaGradient
from metarl_lib.algos.feed_forward import FeedForward
from metarl_lib.algos.meta_settings import LEARNED, MetaSettings
from metarl_lib.envs.base import BoundedEnv, Step, map_tree
from metarl_lib.experiments.meta_training import choose, make_model, streams_of
from metarl_lib.runs import Stage

LEARNERS = {"actor-critic": "none", "meta-gradient": "both"}
"""What each learns of its return's γ and λ."""

Choice = tuple[float, float]  # a learning rate, and a discount, where a learned one starts


class Pinned:
    """An environment that has one task for good; actions and observations are `[B, …]`."""

    def __init__(self, env: BoundedEnv, task: Any) -> None:
        self.env, self.task = env, task

    @property
    def observation_space(self) -> spaces.Space:
        """That of the environment."""
        return self.env.observation_space

    @property
    def action_space(self) -> spaces.Space:
        """That of the environment."""
        return self.env.action_space

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Any:
        """The task, in every row; nothing is drawn."""
        return map_tree(lambda t: t.expand(batch, *t.shape[1:]), self.task)

    def reset(self, tasks: Any, generator: torch.Generator) -> tuple[Any, Tensor]:
        """As the environment does."""
        return self.env.reset(tasks, generator)

    def step(self, state: Any, action: Tensor, generator: torch.Generator) -> tuple[Any, Step]:
        """As the environment does."""
        return self.env.step(state, action, generator)


class Earned(NamedTuple):
    """What fresh learners earned: mean rewards of episodes `[U, W]`; γ and λ at the end `[W]`."""

    rewards: Tensor
    discounts: Tensor
    lambdas: Tensor


def live(
    env: BoundedEnv,
    tasks: Any,
    learner: str,
    choice: Choice,
    episodes: int,
    seed: int,
    *,
    hidden: int,
    log_std: float,
) -> Earned:
    """A life of a fresh learner in each of W tasks, an update after each episode.

    Args:
        env: whose episodes are all equally long.
        tasks: a tree of tensors `[W, …]`.
        learner: one of `LEARNERS`.
        choice: its learning rate and discount.
        episodes: U, of a life.
        seed: the root seed; a life's random numbers depend on it and the life's place alone.
        hidden: units of both hidden layers.
        log_std: logarithm of the deviation of actions at the start.
    """
    learned = LEARNERS[learner]
    rate, discount = choice
    settings = MetaSettings(
        rows=1, segment=env.max_steps, updates=episodes, learning_rate=rate, discount=discount,
        learned=learned, entropy=0.0,
    )  # fmt: skip
    unit = math.sqrt(env.max_steps)

    def build() -> FeedForward:
        return FeedForward(
            env.observation_space, env.action_space, hidden=(hidden, hidden),
            context=len(LEARNED[learned]), log_std=log_std, value_unit=unit,
        )  # fmt: skip

    def alone(place: int) -> tuple[Float[Tensor, " U"], float, float]:
        task = map_tree(lambda t: t[place : place + 1], tasks)
        model = make_model(build, seed, place)
        training = MetaGradient(Pinned(env, task), model, settings, streams_of(seed, place))
        rewards = torch.tensor([training.update()["reward"] for _ in range(episodes)])
        return rewards, *training.returns_of

    rewards, discounts, lambdas = zip(*map(alone, range(len(tasks[0]))), strict=True)
    return Earned(torch.stack(rewards, 1), torch.tensor(discounts), torch.tensor(lambdas))


def tune(
    stage: Stage,
    env: BoundedEnv,
    tasks: Any,
    learner: str,
    rates: Sequence[float],
    discounts: Sequence[float],
    episodes: int,
    seed: int,
    **agent: Any,
) -> None:
    """Live with every learning rate and discount; the best has the most reward in a life.

    Args:
        stage: keeps the `rate`, the `discount` and their `score`, the mean reward of a step.
        env: as of `live`, as are `tasks`, `learner`, `episodes`, `seed`.
        rates: to try.
        discounts: to try.
        agent: what else `live` is told.

    Raises:
        DivergenceError: when there is no choice with which rewards stay finite.
    """

    def judge(rate: float, discount: float) -> float:
        lived = live(env, tasks, learner, (rate, discount), episodes, seed, **agent)
        return float(lived.rewards.mean())

    settings = {"rate": rates, "discount": discounts}
    choose(stage, f"scratch_rates={tuple(rates)}", settings, judge)
