"""A point in the plane that looks for a goal it cannot see."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.envs.base import Step, check_action
from metarl_lib.envs.chessboard import chessboard
from metarl_lib.envs.option_checks import check_choice, check_positive, check_whole

GOALS = ("circle", "square")
STRIDE = 0.1
FIELDS = 16


class PointTasks(NamedTuple):
    """The goals, `[B, 2]`."""

    goal: Tensor


class PointState(NamedTuple):
    """The tasks, where the point is, `[B, 2]`, and how many steps it has made, `[B]`."""

    tasks: PointTasks
    position: Tensor
    time: Tensor


class PointRobot:
    """The batched environment behind `metarl/PointRobot-v0`, after Rakelly et al. (2019).

    A point starts at the origin and moves by 0.1 a, with the action a clipped to [−1, 1]². It
    sees its position, `[2]`, but not the goal, which only the rewards tell. With d the distance
    to the goal after the move, the reward is

        −d,    or, if `sparse`,    1 − d where d ≤ `goal_radius`, else 0.

    Args:
        sparse: rewards near the goal only.
        steps: of an episode. Nothing ends there but the watching: `truncated`.
        radius: R, the size of the set of goals.
        goal_radius: how near counts as near.
        goals: `"circle"`, the half circle of radius R above the origin, as in their sparse
            task, or `"square"`, [−R, R]², as in their dense one. (Their dense task starts at
            a random place of the square.)

    Goals are uniform. Training and test goals lie on alternate ones of 16 arcs, or on the white
    and the black ones of 16 × 16 squares.

    `info["distance"]` is d, `[B]`.

    Raises:
        ValueError: for an unknown set of goals, or numbers out of range.
    """

    def __init__(
        self,
        sparse: bool = False,
        steps: int = 20,
        radius: float = 1.0,
        goal_radius: float = 0.2,
        goals: str = "circle",
    ) -> None:
        check_whole("steps", steps)
        check_positive("radius", radius)
        check_positive("goal_radius", goal_radius)
        check_choice("goals", goals, GOALS)
        self.sparse, self.steps, self.goals = sparse, steps, goals
        self.radius, self.goal_radius = radius, goal_radius
        self.observation_space = spaces.Box(-math.inf, math.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    @property
    def max_steps(self) -> int:
        """The length of every episode."""
        return self.steps

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> PointTasks:
        """Draw goals."""
        u = chessboard(batch, 1 if self.goals == "circle" else 2, FIELDS, generator, split)
        if self.goals == "square":
            return PointTasks(self.radius * (2 * u - 1))
        angle = math.pi * u
        return PointTasks(self.radius * torch.cat([angle.cos(), angle.sin()], -1))

    def reset(self, tasks: PointTasks, generator: torch.Generator) -> tuple[PointState, Tensor]:
        """Start at the origin; nothing is drawn."""
        position = torch.zeros_like(tasks.goal)
        time = torch.zeros_like(position[:, 0], dtype=torch.long)
        return PointState(tasks, position, time), position.clone()

    def step(
        self, state: PointState, action: Tensor, generator: torch.Generator
    ) -> tuple[PointState, Step]:
        """Move; nothing is drawn."""
        check_action(action, len(state.time), self.action_space)
        position = state.position + STRIDE * action.to(state.position).clamp(-1, 1)
        distance = (position - state.tasks.goal).norm(dim=-1)
        if self.sparse:
            reward = torch.where(distance <= self.goal_radius, 1 - distance, 0.0)
        else:
            reward = -distance
        state = PointState(state.tasks, position, state.time + 1)
        ended = state.time >= self.steps
        info = {"distance": distance}
        return state, Step(position.clone(), reward, torch.zeros_like(ended), ended, info)
