"""Chains to learn values on: in one some rewards are noise, in the other some states look alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets.split import check_split
from metarl_lib.envs.base import Step, check_discrete, one_hot
from metarl_lib.envs.option_checks import check_choice, check_whole

KINDS = ("noise", "alias")


class ChainTasks(NamedTuple):
    """The mean reward of the step out of each state, `[B, n]`, and its standard deviation."""

    means: Tensor
    noise: Tensor


class ChainState(NamedTuple):
    """The tasks, and the state that each row is in, `[B]`, from 0 to n (the end)."""

    tasks: ChainTasks
    place: Tensor


class Chain:
    """The batched environment behind `metarl/Chain-v0`: a walk s_1 → … → s_n → end.

    There is one action, which does nothing: what is to be learned is a value. The two kinds are
    in the spirit of the illustrative problems of Xu, van Hasselt & Silver (2018, section 1.4),
    with rewards of our own:

    - `"noise"`: out of s_1, s_3, … the reward is `signal`; out of s_2, s_4, … it is drawn from
      N(0, `noise`²). Every state is seen as itself, one-hot, `[n]`. A discount before the noisy
      rewards keeps them out of what is learned.
    - `"alias"`: every reward has the noise N(0, `noise`²). Means are −, +, +, −, … times
      `signal`, from s_n back, so that the sums to come are 0 for s_1, s_3, … and ± `signal`
      for s_2, s_4, …. These all look the same, `[n/2 + 1]`: their values cannot be learned,
      and nobody should bootstrap from them.

    Args:
        kind: `"noise"` or `"alias"`.
        states: n, an even number.
        signal: see above.
        noise: see above.

    There is one task, so that training and test coincide. `info["place"]` is the state that the
    step led to, 0 … n.

    Raises:
        ValueError: for an unknown kind, an odd number of states, or numbers out of range.
    """

    def __init__(
        self, kind: str = "noise", states: int = 10, signal: float = 0.1, noise: float = 1.0
    ) -> None:
        check_choice("kind", kind, KINDS)
        check_whole("states", states, 2)
        if states % 2:
            raise ValueError(f"states={states}: must be even, because two kinds alternate")
        if not noise >= 0:
            raise ValueError(f"noise={noise!r}: must be 0 or more, a standard deviation")
        self.kind, self.states, self.signal, self.noise = kind, states, signal, noise
        size = states if kind == "noise" else states // 2 + 1
        self.observation_space = spaces.Box(0.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Discrete(1)

    @property
    def max_steps(self) -> int:
        """The length of every episode."""
        return self.states

    def rewards(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the reward out of each state, `[n]` each."""
        number = torch.arange(self.states)
        if self.kind == "noise":
            noisy = number % 2 == 1
            return self.signal * (~noisy).float(), self.noise * noisy.float()
        values = torch.zeros(self.states + 1)
        behind = torch.arange(self.states - 1, 0, -2)
        values[behind] = self.signal * (1 - 2 * (torch.arange(len(behind)) % 2)).float()
        return values[:-1] - values[1:], torch.full((self.states,), float(self.noise))

    def features(self) -> Tensor:
        """What each state looks like, `[n, F]`."""
        return self._look(torch.arange(self.states))

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> ChainTasks:
        """The one task, for every row; nothing is drawn."""
        check_split(split)
        means, noise = (part.to(generator.device) for part in self.rewards())
        return ChainTasks(means.expand(batch, -1), noise.expand(batch, -1))

    def reset(self, tasks: ChainTasks, generator: torch.Generator) -> tuple[ChainState, Tensor]:
        """Start in s_1; nothing is drawn."""
        place = torch.zeros(len(tasks.means), dtype=torch.long, device=tasks.means.device)
        return ChainState(tasks, place), self._look(place)

    def step(
        self, state: ChainState, action: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Step]:
        """Go on to the next state."""
        tasks, place = state.tasks, state.place
        check_discrete(action, len(place), self.action_space)
        here = place.clamp(max=self.states - 1).unsqueeze(-1)
        mean, spread = (part.gather(-1, here).squeeze(-1) for part in tasks)
        chance = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        place = (place + 1).clamp(max=self.states)
        ended = place == self.states
        step = Step(
            self._look(place), mean + spread * chance, ended, torch.zeros_like(ended),
            {"place": place},
        )  # fmt: skip
        return ChainState(tasks, place), step

    def _look(self, place: Tensor) -> Tensor:
        """One-hot, all zeros at the end; in `"alias"` the last number is that of s_2, s_4, …"""
        if self.kind == "noise":
            return one_hot(place, self.states)
        half = self.states // 2
        number = torch.where(place % 2 == 1, half, place.div(2, rounding_mode="floor"))
        return one_hot(torch.where(place == self.states, half + 1, number), half + 1)
