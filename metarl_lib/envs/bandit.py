"""Bandits: k arms, each with its own distribution of rewards, and nothing to see."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets.split import check_split
from metarl_lib.envs.base import Step, check_discrete
from metarl_lib.envs.chessboard import GRID, chessboard
from metarl_lib.envs.option_checks import check_choice, check_whole

LOW = {"dependent-easy": 0.1, "dependent-medium": 0.25, "dependent-hard": 0.4}
"""The smaller of the two probabilities, which add up to 1 (Wang et al., 2016)."""

KINDS = ("bernoulli", "gaussian", "dependent-uniform", *LOW)
FIELDS = 1024


class BanditTasks(NamedTuple):
    """The mean reward of each arm, `[B, k]`; of a Bernoulli arm that is its probability."""

    means: Tensor


class BanditState(NamedTuple):
    """The tasks, and how often an arm was pulled, `[B]`."""

    tasks: BanditTasks
    time: Tensor


class Bandit:
    """The batched environment behind `metarl/Bandit-v0`: one episode is `steps` pulls.

    Args:
        arms: k, at least 2. The dependent kinds have two.
        steps: pulls of an episode. Their end is part of the task: `terminated`.
        kind: what is drawn for a task, and what an arm pays:

            - `"bernoulli"`: probabilities p ~ U(0, 1), independent; pays 1 or 0.
            - `"gaussian"`: means μ ~ N(0, 1), independent; pays N(μ, 1).
            - `"dependent-uniform"`: p_1 ~ U(0, 1) and p_2 = 1 − p_1; pays 1 or 0.
            - `"dependent-easy"`, `"dependent-medium"`, `"dependent-hard"`: the same with p_1
              one of 0.1 and 0.9, of 0.25 and 0.75, of 0.4 and 0.6 (Wang et al., 2016).

        show_time: shows the share of the pulls that is left.

    An observation is one number, `[1]`, which is always 0 unless `show_time`: a bandit has nothing
    to see, and an agent learns of its tasks by its own actions and rewards alone (see `Trial`).

    Training and test tasks lie on the white and the black fields of a chessboard with 1024
    fields along each axis (of p, or of the distribution function of μ). So no test task is a
    training task, and each split alone is uniform and independent up to 1/1024. The last three
    kinds have only two tasks, so that there the splits coincide.

    `info["regret"]`, `[B]`, is the largest mean less that of the chosen arm, ≥ 0.

    Raises:
        ValueError: for an unknown kind, or numbers out of range.
    """

    def __init__(
        self, arms: int = 5, steps: int = 100, kind: str = "bernoulli", *, show_time: bool = False
    ) -> None:
        check_whole("arms", arms, 2)
        check_whole("steps", steps)
        check_choice("kind", kind, KINDS)
        if kind.startswith("dependent") and arms != 2:
            raise ValueError(f"arms={arms} does not go with kind={kind!r}: give arms=2")
        self.arms, self.steps, self.kind, self.show_time = arms, steps, kind, show_time
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(arms)

    @property
    def max_steps(self) -> int:
        """The length of every episode."""
        return self.steps

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> BanditTasks:
        """Draw the mean rewards of the arms."""
        check_split(split)
        if self.kind in LOW:
            low = LOW[self.kind]
            both = torch.tensor([[low, 1 - low], [1 - low, low]], device=generator.device)
            first = torch.randint(2, (batch,), generator=generator, device=generator.device)
            return BanditTasks(both[first])
        free = 1 if self.kind == "dependent-uniform" else self.arms
        u = chessboard(batch, free, FIELDS, generator, split)
        if self.kind == "gaussian":  # in the middle between two points, so that no mean is −∞
            return BanditTasks(torch.special.ndtri(u.double() + 0.5 / GRID).float())
        return BanditTasks(u if self.kind == "bernoulli" else torch.cat([u, 1 - u], -1))

    def reset(self, tasks: BanditTasks, generator: torch.Generator) -> tuple[BanditState, Tensor]:
        """Start an episode; nothing is drawn."""
        means = tasks.means
        state = BanditState(tasks, torch.zeros(len(means), dtype=torch.long, device=means.device))
        return state, self.observe(state)

    def step(
        self, state: BanditState, action: Tensor, generator: torch.Generator
    ) -> tuple[BanditState, Step]:
        """Pull one arm in every row."""
        means = state.tasks.means
        check_discrete(action, len(means), self.action_space)
        mean = means.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
        draw = torch.randn if self.kind == "gaussian" else torch.rand
        chance = draw(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        reward = mean + chance if self.kind == "gaussian" else (chance < mean).to(mean)
        state = BanditState(state.tasks, state.time + 1)
        ended = state.time >= self.steps
        info = {"regret": means.amax(-1) - mean}
        return state, Step(self.observe(state), reward, ended, torch.zeros_like(ended), info)

    def observe(self, state: BanditState) -> Tensor:
        """One number, `[B, 1]`."""
        time = state.time.to(state.tasks.means).unsqueeze(-1)
        return 1 - time / self.steps if self.show_time else torch.zeros_like(time)
