"""A pendulum to swing up, whose gravity, mass and length can be a task's own."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from metarl_lib.envs.base import Step, check_action
from metarl_lib.envs.chessboard import chessboard
from metarl_lib.envs.option_checks import check_whole

STANDARD = (10.0, 1.0, 1.0)
"""Gravity, mass and length of Gymnasium's pendulum."""

SECONDS, FASTEST, TORQUE = 0.05, 8.0, 2.0
FIELDS = 4


class PendulumTasks(NamedTuple):
    """Gravity, mass and length, `[B]` each; what is seen and earned has their dtype."""

    gravity: Tensor
    mass: Tensor
    length: Tensor


class PendulumState(NamedTuple):
    """The tasks, the angle from upright and its velocity, `[B]` float64, and the steps made."""

    tasks: PendulumTasks
    angle: Tensor
    velocity: Tensor
    time: Tensor


class Pendulum:
    """The batched environment behind `metarl/Pendulum-v0`: Gymnasium's Pendulum-v1, and a family.

    A rod turns about its end. It is seen as `[cos ϑ, sin ϑ, ω]`, with the angle ϑ from upright
    and the velocity ω, and driven by a torque u, clipped to [−2, 2]. In each step

        ω ← clip(ω + (3 g / (2 l) · sin ϑ + 3 / (m l²) · u) Δt, ±8),    ϑ ← ϑ + ω Δt,

    with Δt = 0.05, and the reward is −(ϑ² + 0.1 ω² + 0.001 u²) of before, ϑ taken from −π to π.
    The torque is too weak to lift the rod at once. An episode starts at ϑ ~ U(−π, π) and
    ω ~ U(−1, 1), and nothing ends but the watching: `truncated`.

    Args:
        spread: how far g, m and l, each by itself, can be from those of Gymnasium, 10, 1 and 1,
            as a share of them. Tasks are uniform; training and test tasks lie in the white and
            the black ones of 4 × 4 × 4 cubes. With 0 all tasks are Gymnasium's, in both splits.
        steps: of an episode.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(self, spread: float = 0.0, steps: int = 200) -> None:
        if not 0 <= spread < 1:
            raise ValueError(f"spread={spread}: must be a share from 0 to below 1")
        check_whole("steps", steps)
        self.spread, self.steps = spread, steps
        bounds = np.array([1.0, 1.0, FASTEST], np.float32)
        self.observation_space = spaces.Box(-bounds, bounds, dtype=np.float32)
        self.action_space = spaces.Box(-TORQUE, TORQUE, (1,), np.float32)

    @property
    def max_steps(self) -> int:
        """The length of every episode."""
        return self.steps

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> PendulumTasks:
        """Draw gravity, mass and length."""
        u = chessboard(batch, len(STANDARD), FIELDS, generator, split)
        scale = torch.tensor(STANDARD, device=u.device)
        return PendulumTasks(*(scale * (1 + self.spread * (2 * u - 1))).unbind(1))

    def reset(
        self, tasks: PendulumTasks, generator: torch.Generator
    ) -> tuple[PendulumState, Float[Tensor, "B 3"]]:
        """Draw the first angles and velocities."""
        shape, device = (2, len(tasks.mass)), tasks.mass.device
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        angle, velocity = math.pi * (2 * u[0] - 1), 2 * u[1] - 1
        time = torch.zeros_like(angle, dtype=torch.long)
        state = PendulumState(tasks, angle, velocity, time)
        return state, _seen(state)

    def step(
        self, state: PendulumState, action: Tensor, generator: torch.Generator
    ) -> tuple[PendulumState, Step]:
        """Turn for Δt; nothing is drawn."""
        check_action(action, len(state.time), self.action_space)
        torque = action[:, 0].to(state.angle).clamp(-TORQUE, TORQUE)
        gravity, mass, length = (part.double() for part in state.tasks)
        normal = torch.remainder(state.angle + math.pi, 2 * math.pi) - math.pi
        cost = normal**2 + 0.1 * state.velocity**2 + 0.001 * torque**2
        push = 3 * gravity / (2 * length) * state.angle.sin() + 3 / (mass * length**2) * torque
        velocity = (state.velocity + push * SECONDS).clamp(-FASTEST, FASTEST)
        state = PendulumState(
            state.tasks, state.angle + velocity * SECONDS, velocity, state.time + 1
        )
        ended = state.time >= self.steps
        reward = -cost.to(state.tasks.mass)
        return state, Step(_seen(state), reward, torch.zeros_like(ended), ended, {})


def _seen(state: PendulumState) -> Float[Tensor, "B 3"]:
    seen = [state.angle.cos(), state.angle.sin(), state.velocity]
    return torch.stack(seen, 1).to(state.tasks.mass)
