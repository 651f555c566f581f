"""Small batched environments with known numbers: counting, recalling, and balancing a pole."""

import math
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.envs.base import Step

MARKS, KICKS = 12, 3


class CountingState(NamedTuple):
    mark: Tensor
    time: Tensor
    total: Tensor


class Counting:
    """Whole numbers that a plain loop can follow; see `CountingLoop`.

    A task is a mark m; its episode takes 2 + m % 4 steps and terminates if m % 3 = 0, is cut off
    if m % 3 = 1, and both if m % 3 = 2. A step adds the action's number and a drawn kick to the
    total and pays mark + 2 time + 3 total, in tenths, as the observation (mark, time, total) is.
    The number of a discrete action is itself, that of a vector the sum of its parts weighted by
    1, 2, …
    """

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def sample_tasks(self, batch, generator, split="train") -> Tensor:
        offset = {"train": 0, "test": MARKS}[split]
        return offset + torch.randint(
            MARKS, (batch,), generator=generator, device=generator.device
        ).to(torch.get_default_dtype())

    def reset(self, tasks, generator):
        zero = torch.zeros_like(tasks)
        state = CountingState(tasks, zero, zero)
        return state, self.observe(state)

    def observe(self, state) -> Tensor:
        return torch.stack(list(state), -1) / 10

    def step(self, state, action, generator):
        if isinstance(self.action_space, spaces.Discrete):
            number = action.to(state.total)
        else:
            number = (action * torch.arange(1.0, action.shape[1] + 1).to(action)).sum(-1)
        kick = torch.randint(KICKS, number.shape, generator=generator, device=number.device)
        state = CountingState(state.mark, state.time + 1, state.total + number + kick)
        reward = (state.mark + 2 * state.time + 3 * state.total) / 10
        over = state.time >= 2 + state.mark % 4
        terminated, truncated = over & (state.mark % 3 != 1), over & (state.mark % 3 != 0)
        return state, Step(self.observe(state), reward, terminated, truncated, {})


class CountingLoop:
    """The same, one row after the other in Python numbers; its streams are those of a training.

    Where a row ends, tasks are drawn for all rows and the ended ones take theirs.
    """

    def __init__(self, rows: int, tasks: torch.Generator, environment: torch.Generator) -> None:
        self.tasks, self.environment = tasks, environment
        self.rows = [[mark, 0, 0.0] for mark in self._marks(rows)]

    def _marks(self, count: int) -> list[int]:
        return torch.randint(MARKS, (count,), generator=self.tasks).tolist()

    def observation(self) -> list[list[float]]:
        return [[number / 10 for number in row] for row in self.rows]

    def step(self, numbers: list[float]) -> list[tuple[float, bool, bool]]:
        """What one step pays in each row, and whether it terminated or was cut off."""
        kicks = torch.randint(KICKS, (len(numbers),), generator=self.environment).tolist()
        said = []
        for row, number, kick in zip(self.rows, numbers, kicks, strict=True):
            row[1] += 1
            row[2] += number + kick
            mark, time, total = row
            over = time >= 2 + mark % 4
            reward = (mark + 2 * time + 3 * total) / 10
            said.append((reward, over and mark % 3 in (0, 2), over and mark % 3 in (1, 2)))
        return said

    def restart(self, ended: list[bool]) -> None:
        if any(ended):
            fresh = self._marks(len(ended))
            pairs = zip(ended, fresh, self.rows, strict=True)
            self.rows = [[mark, 0, 0.0] if end else row for end, mark, row in pairs]


class RecallState(NamedTuple):
    symbol: Tensor
    time: Tensor


class Recall:
    """Say the symbol that was shown in the first step when a flag asks for it, `delay` steps later.

    Only the answer pays, 1 if it is right. All observations but the first are equal for all
    symbols, so that without memory no policy is paid more than 1 / symbols on average.
    """

    def __init__(self, symbols: int = 4, delay: int = 3) -> None:
        self.symbols, self.delay = symbols, delay
        self.observation_space = spaces.Box(0.0, 1.0, (symbols + 1,), np.float32)
        self.action_space = spaces.Discrete(symbols)

    @property
    def without_memory(self) -> float:
        return 1 / self.symbols

    def sample_tasks(self, batch, generator, split="train") -> Tensor:
        return torch.randint(self.symbols, (batch,), generator=generator, device=generator.device)

    def reset(self, tasks, generator):
        state = RecallState(tasks, torch.zeros_like(tasks))
        return state, self.observe(state)

    def observe(self, state) -> Tensor:
        shown = torch.eye(self.symbols, device=state.symbol.device)[state.symbol]
        shown = shown * (state.time == 0)[:, None]
        return torch.cat([shown, (state.time == self.delay)[:, None].to(shown)], -1)

    def step(self, state, action, generator):
        over = state.time == self.delay
        reward = (over & (action == state.symbol)).float()
        state = RecallState(state.symbol, state.time + 1)
        return state, Step(self.observe(state), reward, over, torch.zeros_like(over), {})


class PoleState(NamedTuple):
    numbers: Tensor
    time: Tensor


class CartPole:
    """`CartPole-v1` of Gymnasium (Barto, Sutton & Anderson 1983), all rows at once.

    Args:
        positions_only: hides both velocities, so that one observation no longer says where
            cart and pole are going.
        reward: what a step pays, 1 in Gymnasium.
    """

    def __init__(self, *, positions_only: bool = False, reward: float = 1.0) -> None:
        self.reward = reward
        self.seen = [0, 2] if positions_only else [0, 1, 2, 3]
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(self.seen),), np.float32)
        self.action_space = spaces.Discrete(2)
        self.max_steps = 500

    def sample_tasks(self, batch, generator, split="train") -> Tensor:
        return torch.zeros(batch, 0, device=generator.device)

    def reset(self, tasks, generator):
        numbers = torch.empty(len(tasks), 4, dtype=torch.float64, device=tasks.device)
        numbers.uniform_(-0.05, 0.05, generator=generator)
        state = PoleState(numbers, torch.zeros_like(numbers[:, 0], dtype=torch.long))
        return state, self.observe(state)

    def observe(self, state) -> Tensor:
        return torch.stack([state.numbers[:, i] for i in self.seen], -1).float()

    def step(self, state, action, generator):
        x, speed, angle, turn = state.numbers.unbind(-1)
        force = 20.0 * action.to(x) - 10.0
        mass, pole, length, tau = 1.1, 0.1, 0.5, 0.02  # cart and pole, pole, half a pole, seconds
        push = (force + pole * length * turn**2 * angle.sin()) / mass
        lever = length * (4 / 3 - pole * angle.cos() ** 2 / mass)
        turning = (9.8 * angle.sin() - angle.cos() * push) / lever
        moving = push - pole * length * turning * angle.cos() / mass
        x, angle = x + tau * speed, angle + tau * turn
        numbers = torch.stack([x, speed + tau * moving, angle, turn + tau * turning], -1)
        state = PoleState(numbers, state.time + 1)
        fallen = (x.abs() > 2.4) | (angle.abs() > 12 * 2 * math.pi / 360)
        reward = torch.full_like(x, self.reward, dtype=torch.float32)
        return state, Step(self.observe(state), reward, fallen, state.time >= self.max_steps, {})
