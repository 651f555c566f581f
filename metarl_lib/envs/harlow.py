"""Harlow's task on a line: which of two objects is the rewarded one?

The environment of Chalvidal, Serre & VanRullen (2022), in the form of the public one whose
rewards, distances and optimum are those of their figures (`BKHMSI/Meta-RL-Harlow`, 1-D).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets.split import check_split
from metarl_lib.envs.base import Step, check_discrete
from metarl_lib.envs.option_checks import check_whole

CELLS, REACH = 17, 4
"""Cells of the line, and how many the agent sees on either side of its own."""

CENTRE, OFFSET = CELLS // 2, 3
"""Where the fixation mark is, and how far from it an object is."""

LOWEST, COUNT = 2, 1000
"""Objects are the numbers 2 … 1001, shown as thousandths."""

FIXATION, FIXATION_REWARD = 1.0, 0.2
PARTS = 5


class HarlowTasks(NamedTuple):
    """The rewarded object and the other one, `[B]` each, between 0.002 and 1.001."""

    rewarded: Tensor
    other: Tensor


class HarlowState(NamedTuple):
    """All but the tasks `[B]`.

    `position` is the cell of the agent; `shown` whether the objects are there, or else the
    fixation mark; `side` where the rewarded object is, −1 for left and 1 for right;
    `presentation` counts choices, `time` steps.
    """

    tasks: HarlowTasks
    position: Tensor
    shown: Tensor
    side: Tensor
    presentation: Tensor
    time: Tensor


class Harlow:
    """The batched environment behind `metarl/Harlow-v0`.

    A line of 17 cells, closed to a ring, has a fixation mark at its centre. An agent that steps
    on the mark is rewarded by 0.2; the mark vanishes, and the two objects of the task appear 3
    cells to the left and to the right of it, sides drawn anew each time: a *presentation*.
    Stepping on the rewarded object brings 1, on the other −1. Both vanish then, and the mark
    appears again, 3 moves away.

    Actions are 0, a step to the left, and 1, one to the right. The agent sees its own cell and
    4 on each side, `[9]`: 1 for the mark, a number in {0.002, …, 1.001} for an object, else 0.
    It sees the line as it is after its step, so that nothing is ever seen in its own cell. An
    episode starts with the mark −3, −2, −1, 1 or 2 cells to the right, of which 1 is twice as
    likely. It ends after all presentations (`terminated`) or after `max_steps` (`truncated`).

    What the paper leaves open is as in the public environment: the ring, no action to stay,
    and that things can be stepped on from either side. Two things are not: there, an object can
    be drawn twice, and the object 1.000, which looks like the mark, is taken for it. The paper
    speaks of five presentations, but its optimum of 6.2 needs six.

    Args:
        presentations: n, choices of an episode.
        max_steps: of an episode. A presentation takes at least six, the first one fewer.

    At the first presentation nothing is known, so that the best return is n − 1 + 0.2 n on
    average: 6.2. Without learning it is 0.2 n = 1.2 (see `harlow_strategies`).

    A task is a pair of two different objects. It is a test task when the sum of their numbers
    (2 … 1001) is a multiple of 5, else a training task, whichever of them is rewarded. In both
    splits every object is equally likely; given one object, so are its partners, up to 1/200.

    `info`, all `[B]`: `"presentation"`, the number (from 0) of the presentation that the step
    belongs to; `"correct"`, whether the step chose the rewarded object.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(self, presentations: int = 6, max_steps: int = 250) -> None:
        check_whole("presentations", presentations)
        check_whole("max_steps", max_steps)
        self.presentations, self.max_steps = presentations, max_steps
        largest = (LOWEST + COUNT - 1) / COUNT
        self.observation_space = spaces.Box(0.0, largest, (2 * REACH + 1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> HarlowTasks:
        """Draw the two objects.

        The second is d ∈ {1, …, 999} further on the ring of the 1000 objects, so that it is
        another one, and d modulo 5 decides the split, since 5 divides 1000.
        """
        check_split(split)

        def draw(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (batch,), generator=generator, device=generator.device)

        first = draw(LOWEST, LOWEST + COUNT)
        rest = draw(1, PARTS) if split == "train" else torch.zeros_like(first)
        part = (rest - 2 * first) % PARTS  # then first + second = rest, modulo 5
        empty = (part == 0).long()  # d = 0 is no distance
        u = torch.rand(batch, generator=generator, device=generator.device)
        steps = empty + (u * (COUNT // PARTS - empty)).long()
        second = LOWEST + (first - LOWEST + part + PARTS * steps) % COUNT
        return HarlowTasks(first.float() / COUNT, second.float() / COUNT)

    def reset(self, tasks: HarlowTasks, generator: torch.Generator) -> tuple[HarlowState, Tensor]:
        """Draw where the agent starts."""
        shape, device = tasks.rewarded.shape, tasks.rewarded.device
        shift = torch.randint(-OFFSET, OFFSET, shape, generator=generator, device=device)
        shift = torch.where(shift == 0, 1, shift)
        zero = torch.zeros_like(shift)
        state = HarlowState(tasks, CENTRE - shift, zero.bool(), zero + 1, zero, zero)
        return state, self.observe(state)

    def step(
        self, state: HarlowState, action: Tensor, generator: torch.Generator
    ) -> tuple[HarlowState, Step]:
        """Move one cell."""
        check_discrete(action, len(state.time), self.action_space)
        position = (state.position + 2 * action.long() - 1) % CELLS
        distance = position - CENTRE
        fixated = ~state.shown & (distance == 0)
        chosen = state.shown & (distance.abs() == OFFSET)
        correct = chosen & (distance == OFFSET * state.side)
        choice = torch.where(correct, 1.0, -1.0).to(state.tasks.other)  # good or bad
        reward = FIXATION_REWARD * fixated.to(choice) + choice * chosen
        coin = torch.randint(2, position.shape, generator=generator, device=position.device)
        info = {"presentation": state.presentation.clone(), "correct": correct}
        state = HarlowState(
            state.tasks,
            position,
            (state.shown | fixated) & ~chosen,
            torch.where(fixated, 2 * coin - 1, state.side),
            state.presentation + chosen,
            state.time + 1,
        )
        terminated = state.presentation >= self.presentations
        truncated = (state.time >= self.max_steps) & ~terminated
        return state, Step(self.observe(state), reward, terminated, truncated, info)

    def observe(self, state: HarlowState) -> Tensor:
        """The cells around the agent, `[B, 9]`."""
        tasks, shown, right = state.tasks, state.shown, state.side > 0
        line = tasks.other.new_zeros(len(shown), CELLS)
        line[:, CENTRE] = FIXATION * (~shown).to(line)
        line[:, CENTRE - OFFSET] = torch.where(right, tasks.other, tasks.rewarded) * shown
        line[:, CENTRE + OFFSET] = torch.where(right, tasks.rewarded, tasks.other) * shown
        cells = torch.arange(CELLS, device=line.device).unsqueeze(-1)
        in_sight = (cells + torch.arange(-REACH, REACH + 1, device=line.device)) % CELLS
        return line.gather(-1, in_sight[state.position])
