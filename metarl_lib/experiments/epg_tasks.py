"""The tasks of the experiment on evolved losses, and how lives in them are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metarl_lib.envs.base import BoundedEnv
from metarl_lib.envs.locomotion import CheetahDir, RobotTasks
from metarl_lib.envs.pendulum import STANDARD, Pendulum, PendulumTasks
from metarl_lib.envs.point_robot import PointRobot, PointTasks

Draw = Callable[[int, torch.Generator], Any]
"""`draw(count, generator)` gives tasks."""

POINT_EPISODE, PENDULUM_EPISODE, CHEETAH_EPISODE = 20, 100, 100
LIGHTER, HEAVIER = 0.5, 1.5


@dataclass(frozen=True)
class Task:
    """A family of tasks.

    Attributes:
        env: the environment; what the losses are evolved in are its training tasks.
        draws: other tasks, by the name of their condition; `"test"` are new ones of the same
            kind, `"outside"` are such as never occur in training.
        solved: the return of an episode that counts as solved.
    """

    env: BoundedEnv
    draws: dict[str, Draw]
    solved: float


def point() -> Task:
    """A goal on the upper half circle in training; outside, on the lower half.

    Standing still returns −20. The most is −(0.9 + 0.8 + … + 0.1) = −4.5 for a goal on an axis, and
    more for others, because both coordinates move at once.
    """
    env = PointRobot(steps=POINT_EPISODE)

    def test(count: int, generator: torch.Generator) -> PointTasks:
        return env.sample_tasks(count, generator, "test")

    def outside(count: int, generator: torch.Generator) -> PointTasks:
        return PointTasks(test(count, generator).goal * torch.tensor([1.0, -1.0]))

    return Task(env, {"test": test, "outside": outside}, -8.0)


def pendulum() -> Task:
    """Gravity, mass and length within 30 % of Gymnasium's; outside, heavier and lighter ones.

    Outside, the mass is half or one and a half of the standard, and the rest is standard.
    """
    env = Pendulum(spread=0.3, steps=PENDULUM_EPISODE)

    def test(count: int, generator: torch.Generator) -> PendulumTasks:
        return env.sample_tasks(count, generator, "test")

    def outside(count: int, generator: torch.Generator) -> PendulumTasks:
        heavy = torch.rand(count, generator=generator) < 0.5
        gravity, _, length = (torch.full((count,), value) for value in STANDARD)
        return PendulumTasks(gravity, torch.where(heavy, HEAVIER, LIGHTER), length)

    return Task(env, {"test": test, "outside": outside}, -250.0)


def cheetah() -> Task:
    """Forward or backward, which are all tasks there are; a metre a second counts as solved.

    Raises:
        ImportError: without MuJoCo; says which extra to install.
    """
    env = CheetahDir(steps=CHEETAH_EPISODE)

    def test(count: int, generator: torch.Generator) -> RobotTasks:
        return env.sample_tasks(count, generator, "test")

    return Task(env, {"test": test}, 100.0)


TASKS: dict[str, Callable[[], Task]] = {"point": point, "pendulum": pendulum, "cheetah": cheetah}


def episode_returns(rewards: Float[Tensor, "U W"], length: int) -> Float[Tensor, "E W"]:
    """The returns of E episodes of equal length."""
    return rewards.unfold(0, length, length).sum(-1)


def steps_to_solve(
    returns: Float[Tensor, "E W"], length: int, solved: float, longest: int
) -> tuple[Float[Tensor, " W"], Bool[Tensor, " W"]]:
    """Steps until three episodes in a row (all, if fewer) return what counts as solved, on average.

    Returns:
        The steps at the end of these episodes, or of `longest` episodes where there are none;
        and whether there are some.
    """
    window = min(3, len(returns))
    means = returns.unfold(0, window, 1).mean(-1) >= solved
    found = means.any(0)
    first = means.float().argmax(0) + window
    return length * torch.where(found, first, longest).float(), found
