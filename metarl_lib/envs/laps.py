"""Laps on a ring whose rewards come now at once, now at the end, and never stay the same."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.envs.base import OneTask, RowTasks, Step, check_discrete, one_hot
from metarl_lib.envs.option_checks import check_whole


class LapsState(NamedTuple):
    """Right actions of this lap so far, and steps so far, `[B]` each."""

    right: Tensor
    time: Tensor


class Laps(OneTask):
    """The batched environment behind `metarl/Laps-v0`: a decision process that changes.

    An agent walks round a ring of n places, one a step. In each place one of two actions is
    right. In *prompt* phases a right action pays 1 at once; in *late* phases the last step of
    each lap pays the number of right actions in the lap. To every reward N(0, `noise`²) is
    added. After `period` laps the kind of the phase changes, and all right actions are drawn
    anew, from a stream of its own, so that they are the same in all rows. Phases begin prompt.

    The observation is the place, one-hot, `[n]`; the phase is not seen. An episode is one life
    of `phases` phases and ends with them, `truncated`.

    Args:
        places: n.
        period: laps of a phase.
        phases: of a life.
        noise: see above.
        seed: of the right actions.

    There is one task, so that training and test coincide. `info["late"]` says which kind of phase
    it was, `info["correct"]` whether the action was right, `[B]` each.

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(
        self, places: int = 10, period: int = 400, phases: int = 6, noise: float = 1.0,
        seed: int = 0,
    ) -> None:  # fmt: skip
        for name, value in (("places", places), ("period", period), ("phases", phases)):
            check_whole(name, value)
        check_whole("seed", seed, 0)
        if not noise >= 0:
            raise ValueError(f"noise={noise!r}: must be 0 or more, a standard deviation")
        self.places, self.period, self.phases = places, period, phases
        self.noise, self.seed = noise, seed
        self.observation_space = spaces.Box(0.0, 1.0, (places,), np.float32)
        self.action_space = spaces.Discrete(2)

    @property
    def max_steps(self) -> int:
        """The length of a life."""
        return self.places * self.period * self.phases

    @cached_property
    def answers(self) -> Tensor:
        """The right action of each place in each phase, `[phases, n]`."""
        stream = torch.Generator().manual_seed(self.seed)
        return torch.randint(2, (self.phases, self.places), generator=stream)

    def reset(self, tasks: RowTasks, generator: torch.Generator) -> tuple[LapsState, Tensor]:
        """Start a life in the first place; nothing is drawn."""
        zero = torch.zeros_like(tasks.row)
        state = LapsState(zero, zero)
        return state, self.observe(state)

    def step(
        self, state: LapsState, action: Tensor, generator: torch.Generator
    ) -> tuple[LapsState, Step]:
        """Answer in this place, and go on to the next."""
        check_discrete(action, len(state.time), self.action_space)
        phase = self._phase(state.time)
        place = state.time % self.places
        correct = self.answers.to(action.device)[phase, place] == action
        right, late = state.right + correct, phase % 2 == 1
        last = place == self.places - 1
        pay = torch.where(late, right * last, correct.long()).float()
        shape, device = pay.shape, pay.device
        reward = pay + self.noise * torch.randn(shape, generator=generator, device=device)
        state = LapsState(right.masked_fill(last, 0), state.time + 1)
        over = state.time >= self.max_steps
        info = {"late": late, "correct": correct}
        return state, Step(self.observe(state), reward, torch.zeros_like(over), over, info)

    def observe(self, state: LapsState) -> Tensor:
        """The place, one-hot."""
        return one_hot(state.time % self.places, self.places)

    def _phase(self, time: Tensor) -> Tensor:
        phase = time.div(self.places * self.period, rounding_mode="floor")
        return phase.clamp(max=self.phases - 1)
