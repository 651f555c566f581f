"""CartPole and Acrobot, batched, equal to Gymnasium's number by number."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.envs.base import OneTask, RowTasks, Step, check_discrete
from metarl_lib.envs.option_checks import check_whole


class ControlState(NamedTuple):
    """Positions and velocities, `[B, 4]`, float64 as in Gymnasium, and steps so far, `[B]`."""

    body: Tensor
    time: Tensor


class _Control(OneTask):
    """What the two have in common: the start, the limit of time, and one task."""

    spread: float

    def __init__(self, steps: int) -> None:
        check_whole("steps", steps)
        self.steps = steps

    @property
    def max_steps(self) -> int:
        """Steps after which an episode is cut off."""
        return self.steps

    def reset(self, tasks: RowTasks, generator: torch.Generator) -> tuple[ControlState, Tensor]:
        """Draw where it starts, near rest."""
        size, device = (len(tasks.row), 4), generator.device
        u = torch.rand(size, generator=generator, dtype=torch.float64, device=device)
        body = self.spread * (2 * u - 1)
        return ControlState(body, torch.zeros_like(tasks.row)), self.observe(body)

    def observe(self, body: Tensor) -> Tensor:
        """What is seen of it, float32."""
        raise NotImplementedError


class CartPole(_Control):
    """The batched environment behind `metarl/CartPole-v0`: Gymnasium's `CartPole-v1`.

    A cart, pushed to the left (0) or to the right (1), balances a pole. The observation is
    position and velocity of the cart, angle and angular velocity of the pole, `[4]`. Each step
    pays 1. The episode is `terminated` when the cart leaves ±2.4 or the angle ±12°.

    Args:
        steps: after which an episode is cut off.

    There is one task, so that training and test coincide.
    """

    spread = 0.05
    gravity, cart, pole, half_length, force, interval = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
    edge, tilt = 2.4, 12 * 2 * math.pi / 360

    def __init__(self, steps: int = 500) -> None:
        super().__init__(steps)
        high = np.array([2 * self.edge, np.inf, 2 * self.tilt, np.inf], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def step(
        self, state: ControlState, action: Tensor, generator: torch.Generator
    ) -> tuple[ControlState, Step]:
        """Push; nothing is drawn."""
        check_discrete(action, len(state.time), self.action_space)
        x, speed, angle, turning = state.body.unbind(-1)
        push = torch.where(action == 1, self.force, -self.force).to(x)
        total, moment = self.cart + self.pole, self.pole * self.half_length
        cosine, sine = angle.cos(), angle.sin()
        drive = (push + moment * turning.square() * sine) / total
        bend = (self.gravity * sine - cosine * drive) / (
            self.half_length * (4.0 / 3.0 - self.pole * cosine.square() / total)
        )
        pull = drive - moment * bend * cosine / total
        body = torch.stack(
            [
                x + self.interval * speed,
                speed + self.interval * pull,
                angle + self.interval * turning,
                turning + self.interval * bend,
            ],
            -1,
        )
        out = (body[:, 0].abs() > self.edge) | (body[:, 2].abs() > self.tilt)
        time = state.time + 1
        late = (time >= self.steps) & ~out
        reward = torch.ones(len(time), device=time.device)
        return ControlState(body, time), Step(self.observe(body), reward, out, late, {})

    def observe(self, body: Tensor) -> Tensor:
        """Position, velocity, angle, angular velocity, `[B, 4]`."""
        return body.float()


class Acrobot(_Control):
    """The batched environment behind `metarl/Acrobot-v0`: Gymnasium's `Acrobot-v1`.

    Two links hang from a joint; a torque of −1, 0 or 1 (actions 0, 1, 2) acts between them. The
    observation is cosine and sine of both angles and the two angular velocities, `[6]`. Each
    step costs 1, until the tip has risen by one length above the joint: `terminated`, for 0.

    Args:
        steps: after which an episode is cut off.

    There is one task, so that training and test coincide.
    """

    spread = 0.1
    gravity, interval, fastest = 9.8, 0.2, (4 * math.pi, 9 * math.pi)

    def __init__(self, steps: int = 500) -> None:
        super().__init__(steps)
        high = np.array([1.0, 1.0, 1.0, 1.0, *self.fastest], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Discrete(3)

    def step(
        self, state: ControlState, action: Tensor, generator: torch.Generator
    ) -> tuple[ControlState, Step]:
        """One step of Runge and Kutta of fourth order; nothing is drawn."""
        check_discrete(action, len(state.time), self.action_space)
        h, s, torque = self.interval, state.body, action.to(state.body) - 1
        k1 = self._slope(s, torque)
        k2 = self._slope(s + h / 2 * k1, torque)
        k3 = self._slope(s + h / 2 * k2, torque)
        k4 = self._slope(s + h * k3, torque)
        found = s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles = torch.remainder(found[:, :2] + math.pi, 2 * math.pi) - math.pi
        limit = torch.tensor(self.fastest, dtype=found.dtype, device=found.device)
        body = torch.cat([angles, torch.clamp(found[:, 2:], -limit, limit)], -1)
        up = -body[:, 0].cos() - (body[:, 0] + body[:, 1]).cos() > 1.0
        time = state.time + 1
        late = (time >= self.steps) & ~up
        return ControlState(body, time), Step(self.observe(body), -(~up).float(), up, late, {})

    def observe(self, body: Tensor) -> Tensor:
        """Cosine and sine of both angles, angular velocities, `[B, 6]`."""
        angles = body[:, :2]
        found = torch.stack([angles.cos(), angles.sin()], -1).flatten(1)
        return torch.cat([found, body[:, 2:]], -1).float()

    def _slope(self, body: Tensor, torque: Tensor) -> Tensor:
        """The equations of motion as in Sutton and Barto's book; masses and lengths are 1."""
        first, second, turn1, turn2 = body.unbind(-1)
        cosine, sine, half, g = second.cos(), second.sin(), 0.5, self.gravity
        d1 = half**2 + (1 + half**2 + 2 * half * cosine) + 2.0
        d2 = half**2 + half * cosine + 1.0
        phi2 = half * g * (first + second - math.pi / 2).cos()
        phi1 = -half * turn2.square() * sine - 2 * half * turn2 * turn1 * sine
        phi1 = phi1 + (half + 1) * g * (first - math.pi / 2).cos() + phi2
        bend2 = (torque + d2 / d1 * phi1 - half * turn1.square() * sine - phi2) / (
            half**2 + 1.0 - d2.square() / d1
        )
        bend1 = -(d2 * bend2 + phi1) / d1
        return torch.stack([turn1, turn2, bend1, bend2], -1)
