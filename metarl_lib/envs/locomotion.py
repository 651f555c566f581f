"""Robots that learn from rewards alone where to run: Ant-dir, Cheetah-dir and Cheetah-vel."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from metarl_lib.datasets.split import check_split
from metarl_lib.envs.base import Step, check_action
from metarl_lib.envs.chessboard import chessboard
from metarl_lib.envs.option_checks import check_choice, check_positive, check_whole
from metarl_lib.envs.physics import Physics
from metarl_lib.envs.robot_picture import View, picture

DIRECTIONS = ("circle", "forward-backward")
GOALS = ("hidden", "visible")
FIELDS = 16
NOISE = 0.1  # of the first positions and velocities
HEALTHY = (0.2, 1.0)  # heights of an ant's body, in metres
ANT_EFFORT, CHEETAH_EFFORT = 0.5, 0.1


class RobotTasks(NamedTuple):
    """What is paid for: a unit vector `[B, 2]`, a sign `[B, 1]` or a velocity `[B, 1]`."""

    goal: Tensor


class RobotState(NamedTuple):
    """The tasks, the physics in float64, `[B, n]`, and how many steps were made, `[B]`."""

    tasks: RobotTasks
    physics: Tensor
    time: Tensor


class Robot:
    """What the robots share; a subclass says which tasks there are, and what is paid for.

    The models, the first poses and what is seen and paid for are those of Gymnasium's v5
    robots, with their own options for what they see of the contact forces (nothing, and they
    cost nothing), and for an ant that falls (it lives on without its bonus), so that all
    episodes are equally long. An episode starts near the pose at rest: positions
    + U(−0.1, 0.1), velocities + 0.1 N(0, 1). An action is a torque from −1 to 1 for each
    actuator. The robot sees its positions, but not its place in the world, then its velocities,
    in torch's default dtype. Velocities along the ground are means over a step, from positions
    at its two ends. (Gymnasium's ant takes its own from inside the last step of the physics.)

    The end of an episode is part of the task: `terminated`. `info["velocity"]` is the
    velocity that was paid for, `[B]`. `info["diverged"]` says where the physics failed: such a
    row stays as it was before the step, is paid nothing, and ends.

    Args:
        steps: of an episode.
        impaired: the number of an actuator whose torque is always 0, or None.
        goal: `"hidden"`, or `"visible"`: then the observation ends with what is paid for.

    Raises:
        ImportError: without MuJoCo; says which extra to install.
        ValueError: for a choice or a number out of range.
    """

    robot: str
    unseen: int  # positions, the first ones, that say where in the world the robot is
    goals: int  # numbers of a goal
    effort: float  # what a squared torque costs
    view: View  # of those who look on

    def __init__(self, steps: int = 200, impaired: int | None = None, goal: str = "hidden") -> None:
        check_whole("steps", steps)
        check_choice("goal", goal, GOALS)
        self.physics = Physics(self.robot)
        count = self.physics.num_actuators
        if impaired is not None and (type(impaired) is not int or not 0 <= impaired < count):
            raise ValueError(
                f"impaired={impaired!r}: must be an actuator, one of 0 to {count - 1}, or None"
            )
        self.steps, self.impaired, self.visible = steps, impaired, goal == "visible"
        seen = (
            self.goals * self.visible
            + self.physics.num_positions
            - self.unseen
            + self.physics.num_velocities
        )
        self.observation_space = spaces.Box(-math.inf, math.inf, (seen,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (count,), np.float32)

    @property
    def max_steps(self) -> int:
        """The length of every episode."""
        return self.steps

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> RobotTasks:
        """Draw what will be paid for."""
        raise NotImplementedError

    def reset(self, tasks: RobotTasks, generator: torch.Generator) -> tuple[RobotState, Tensor]:
        """Draw the first poses and velocities."""
        rows, rest = len(tasks.goal), self.physics.rest
        u = torch.rand(rows, len(rest), generator=generator, dtype=torch.float64)
        z = torch.randn(rows, self.physics.num_velocities, generator=generator, dtype=torch.float64)
        physics = self.physics.start(rest + NOISE * (2 * u - 1), NOISE * z)
        state = RobotState(tasks, physics, torch.zeros(rows, dtype=torch.long))
        return state, self.observe(state)

    def step(
        self, state: RobotState, action: Tensor, generator: torch.Generator
    ) -> tuple[RobotState, Step]:
        """Let all rows move for a frame; nothing is drawn."""
        check_action(action, len(state.time), self.action_space)
        torque = action.detach().double().clamp(-1, 1)
        if self.impaired is not None:
            torque[:, self.impaired] = 0
        physics, diverged = self.physics.advance(state.physics, torque)
        moved = self.physics.positions(physics) - self.physics.positions(state.physics)
        velocity, reward = self.paid(state.tasks.goal, moved / self.physics.seconds, physics)
        reward = reward - self.effort * torque.square().sum(1)
        dtype = torch.get_default_dtype()
        reward = torch.where(diverged, 0.0, reward).to(dtype)
        state = RobotState(state.tasks, physics, state.time + 1)
        ended = (state.time >= self.steps) | diverged
        info = {"velocity": velocity.to(dtype), "diverged": diverged}
        return state, Step(self.observe(state), reward, ended, torch.zeros_like(ended), info)

    def paid(self, goal: Tensor, velocity: Tensor, physics: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity that is looked at, and what is paid for it, `[B]` each.

        Args:
            goal: of the tasks.
            velocity: of the positions, in their order, `[B, q]`.
            physics: after the step.
        """
        raise NotImplementedError

    def observe(self, state: RobotState) -> Float[Tensor, "B I"]:
        """The positions but for the first ones, and the velocities; a visible goal, too."""
        positions = self.physics.positions(state.physics)[:, self.unseen :]
        seen = [positions, self.physics.velocities(state.physics)]
        seen += [state.tasks.goal.double()] * self.visible
        return torch.cat(seen, 1).to(torch.get_default_dtype())

    def render(self, state: RobotState, row: int = 0) -> np.ndarray:
        """One row with the ground under it, `[160, 240, 3]`; the picture follows the robot."""
        limbs = self.physics.limbs(self.physics.positions(state.physics)[row])
        centre = limbs.ends[0].mean(0) * [1, 1, 0] + [0, 0, 0.5]
        return picture(limbs, self.view, centre)


class AntDir(Robot):
    """The batched environment behind `metarl/AntDir-v0`: run in a direction that is not told.

    With v the velocity of the ant's body over the ground and d the direction, each step pays
    v · d, and 1 while the body's height is healthy, from 0.2 to 1, and costs ½ |a|².

    Args:
        directions: `"circle"`, any; or `"forward-backward"`, along the x axis only.
        steps: of an episode.
        impaired: the number of an actuator whose torque is always 0, or None.
        goal: `"hidden"` or `"visible"`.

    Directions on the circle are uniform; training and test ones lie on alternate ones of 16
    arcs. Forward and backward are all tasks there are in the other case, in both splits.

    Raises:
        ImportError: without MuJoCo; says which extra to install.
        ValueError: for an unknown set of directions, or numbers out of range.
    """

    robot, unseen, goals, effort = "ant", 2, 2, ANT_EFFORT
    view = View(turn=0.0, pitch=math.pi / 4)

    def __init__(
        self,
        directions: str = "circle",
        steps: int = 200,
        impaired: int | None = None,
        goal: str = "hidden",
    ) -> None:
        check_choice("directions", directions, DIRECTIONS)
        super().__init__(steps, impaired, goal)
        self.directions = directions

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> RobotTasks:
        """Draw directions."""
        if self.directions == "forward-backward":
            sign = _signs(batch, generator, split)
            return RobotTasks(torch.cat([sign, torch.zeros_like(sign)], 1))
        angle = 2 * math.pi * chessboard(batch, 1, FIELDS, generator, split)
        return RobotTasks(torch.cat([angle.cos(), angle.sin()], 1))

    def paid(self, goal: Tensor, velocity: Tensor, physics: Tensor) -> tuple[Tensor, Tensor]:
        """v · d, and what is paid, to which health adds 1: `[B]` each."""
        along = (velocity[:, :2] * goal).sum(1)
        height = self.physics.positions(physics)[:, 2]
        return along, along + ((height >= HEALTHY[0]) & (height <= HEALTHY[1])).double()


class CheetahDir(Robot):
    """The batched environment behind `metarl/CheetahDir-v0`: run forward, or backward.

    Each step pays the velocity in the direction of the task and costs 0.1 |a|². These two are
    all tasks there are, in both splits. Arguments as those of `Robot`.
    """

    robot, unseen, goals, effort = "half_cheetah", 1, 1, CHEETAH_EFFORT
    view = View(turn=0.0, pitch=math.pi / 12)

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> RobotTasks:
        """Draw 1, forward, or −1, backward."""
        return RobotTasks(_signs(batch, generator, split))

    def paid(self, goal: Tensor, velocity: Tensor, physics: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity in the direction of the task, `[B]`; that much is paid."""
        along = velocity[:, 0] * goal[:, 0]
        return along, along


class CheetahVel(Robot):
    """The batched environment behind `metarl/CheetahVel-v0`: run as fast as is wanted.

    With v the velocity forward and v* that of the task, each step pays −|v − v*| and costs
    0.1 |a|².

    Args:
        steps: of an episode.
        impaired: the number of an actuator whose torque is always 0, or None.
        goal: `"hidden"` or `"visible"`.
        fastest: velocities of tasks are uniform from 0 to this, in metres a second; training
            and test ones lie in alternate ones of 16 stripes.

    Raises:
        ImportError: without MuJoCo; says which extra to install.
        ValueError: for numbers out of range.
    """

    robot, unseen, goals, effort = "half_cheetah", 1, 1, CHEETAH_EFFORT
    view = View(turn=0.0, pitch=math.pi / 12)

    def __init__(
        self,
        steps: int = 200,
        impaired: int | None = None,
        goal: str = "hidden",
        fastest: float = 2.0,
    ) -> None:
        check_positive("fastest", fastest)
        super().__init__(steps, impaired, goal)
        self.fastest = fastest

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> RobotTasks:
        """Draw velocities."""
        return RobotTasks(self.fastest * chessboard(batch, 1, FIELDS, generator, split))

    def paid(self, goal: Tensor, velocity: Tensor, physics: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity, and how far it is from the wanted one, less than zero: `[B]` each."""
        return velocity[:, 0], -(velocity[:, 0] - goal[:, 0]).abs()


def _signs(batch: int, generator: torch.Generator, split: str) -> Tensor:
    check_split(split)
    coin = torch.randint(2, (batch, 1), generator=generator)
    return 2.0 * coin - 1.0
