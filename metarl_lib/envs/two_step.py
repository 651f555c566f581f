"""The two-step task: two choices in a row, of which only the first one matters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets.split import check_split
from metarl_lib.envs.base import Step, check_discrete, one_hot
from metarl_lib.envs.option_checks import check_probability, check_whole

PLACES = 3
"""The first stage, and the two places of the second stage."""


class TwoStepTasks(NamedTuple):
    """Which place of the second stage, 0 or 1, is good in the first round, `[B]`."""

    good: Tensor


class TwoStepState(NamedTuple):
    """All `[B]`.

    `good` is the good place (0 or 1) of this round; `place` where the agent is (0 at the first
    stage, 1 and 2 at the places 0 and 1 of the second); `common` whether the last transition
    was a common one; `time` counts steps.
    """

    good: Tensor
    place: Tensor
    common: Tensor
    time: Tensor


class TwoStep:
    """The batched environment behind `metarl/TwoStep-v0`, after Daw et al. (2011).

    A *round* takes two steps. At the first stage, action a leads to place a of the second stage
    with probability `common`, to the other place otherwise. There any action is rewarded by 1
    with probability `reward` at the good place and 1 − `reward` at the other, and leads back to
    the first stage. With probability `switch` the good place is another one in the next round.
    The numbers are those of Wang et al. (2018). The transitions are the same in all tasks, so
    that only the good place has to be learned; there is no fixation, and no time limit for a
    choice.

    Args:
        rounds: of an episode, which takes 2 · `rounds` steps. Its end is part of the task:
            `terminated`.
        common: the probability of a common transition.
        reward: that of a reward at the good place.
        switch: that of a switch from one round to the next.

    An observation is the place, one-hot, `[3]`. Choices at random earn 0.5 a round on average;
    whoever knows the good place earns c r + (1 − c)(1 − r) with c = `common` and r = `reward`,
    which is 0.74.

    A task is the good place of the first round. There are only two, so that training and test
    tasks coincide.

    `info`, all `[B]`: `"stage"`, 0 or 1, at which the action was taken; `"common"`, whether the
    transition of this round was a common one; `"good"`, its good place.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(
        self, rounds: int = 100, common: float = 0.8, reward: float = 0.9, switch: float = 0.025
    ) -> None:
        check_whole("rounds", rounds)
        for name, value in (("common", common), ("reward", reward), ("switch", switch)):
            check_probability(name, value)
        self.rounds, self.common, self.reward, self.switch = rounds, common, reward, switch
        self.observation_space = spaces.Box(0.0, 1.0, (PLACES,), np.float32)
        self.action_space = spaces.Discrete(2)

    @property
    def max_steps(self) -> int:
        """The length of every episode, two steps a round."""
        return 2 * self.rounds

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> TwoStepTasks:
        """Draw the good place of the first round."""
        check_split(split)
        return TwoStepTasks(
            torch.randint(2, (batch,), generator=generator, device=generator.device)
        )

    def reset(self, tasks: TwoStepTasks, generator: torch.Generator) -> tuple[TwoStepState, Tensor]:
        """Start at the first stage; nothing is drawn."""
        zero = torch.zeros_like(tasks.good)
        state = TwoStepState(tasks.good, zero, zero.bool(), zero)
        return state, self.observe(state)

    def step(
        self, state: TwoStepState, action: Tensor, generator: torch.Generator
    ) -> tuple[TwoStepState, Step]:
        """Choose at the first stage, or collect at the second."""
        check_discrete(action, len(state.time), self.action_space)
        chance, turn = torch.rand(2, len(state.time), generator=generator, device=state.time.device)
        first = state.place == 0
        common = torch.where(first, chance < self.common, state.common)
        reached = torch.where(common, action, 1 - action).long()
        pays = torch.where(state.place - 1 == state.good, self.reward, 1 - self.reward)
        reward = (~first & (chance < pays)).float()
        switched = ~first & (turn < self.switch)
        info = {"stage": (~first).long(), "common": common.clone(), "good": state.good.clone()}
        state = TwoStepState(
            torch.where(switched, 1 - state.good, state.good),
            torch.where(first, 1 + reached, 0),
            common,
            state.time + 1,
        )
        ended = state.time >= self.max_steps
        return state, Step(self.observe(state), reward, ended, torch.zeros_like(ended), info)

    def observe(self, state: TwoStepState) -> Tensor:
        """The place, one-hot, `[B, 3]`."""
        return one_hot(state.place, PLACES)
