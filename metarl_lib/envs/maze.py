"""A maze with a target that cannot be seen: find it, and find it again from anywhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets.split import check_split
from metarl_lib.envs.base import Step, check_discrete
from metarl_lib.envs.maze_layouts import layouts
from metarl_lib.envs.maze_picture import picture
from metarl_lib.envs.option_checks import check_choice, check_whole

REWARD = 10.0
TARGETS = ("hidden", "visible")
PARTS = 5
LEAST_SIZE = 3


class MazeTasks(NamedTuple):
    """Which cells are open, `[B, n, n]`, and the number of the target's cell, row by row, `[B]`."""

    open: Tensor
    target: Tensor


class MazeState(NamedTuple):
    """All but the tasks has a leading B.

    Cells are numbered row by row in the maze with a wall around it, (n + 2) × (n + 2): `walls`
    is 1 where a cell is closed, `[B, (n + 2)²]`; `places` holds the open cells but the target,
    in order, then all others, `[B, n²]`; `vacant` how many the former are; `target` and `position`
    are cells; `time` counts steps.
    """

    tasks: MazeTasks
    walls: Tensor
    places: Tensor
    vacant: Tensor
    target: Tensor
    position: Tensor
    time: Tensor


class Maze:
    """The batched environment behind `metarl/Maze-v0`, after Chalvidal, Serre & VanRullen (2022).

    An agent walks in a maze of n × n cells with a wall around it (see `maze_layouts`). One open
    cell is the target, which looks like any other. Stepping on it brings a reward of 10 and a
    jump to another open cell, drawn evenly; so the agent can find it again and again. Walls,
    target and the first cell, which is drawn like those of the jumps, are new in each episode.

    Actions are 0, up; 1, down; 2, to the left; 3, to the right. A step against a wall goes
    nowhere, and costs nothing. The agent sees its own cell and the eight around it, row by row,
    `[9]`: 1 for a wall, else 0. A visible target adds nine numbers, 1 for its cell, else 0: `[18]`.

    Args:
        size: n, at least 3.
        steps: of an episode. Their end is part of the task: `terminated`.
        target: `"hidden"`, or `"visible"` to those who stand next to it.

    The paper leaves open what a jump may lead to; here it never leads to the target itself.

    Training and test tasks are disjoint: the target is the r-th of the maze's K open cells, and
    (r + K) modulo 5 is 0 in test tasks alone. Apart from that it is drawn evenly.

    `info["hit"]` says whether the step reached the target, `info["cell"]` the number of the cell
    where the agent stands after it, row by row, `[B]` each.

    Raises:
        ValueError: for numbers out of range, or an unknown kind of target.
    """

    def __init__(self, size: int = 8, steps: int = 100, target: str = "hidden") -> None:
        check_whole("size", size, LEAST_SIZE)
        check_whole("steps", steps)
        check_choice("target", target, TARGETS)
        self.size, self.steps, self.visible = size, steps, target == "visible"
        self.width = size + 2  # of the maze with its walls around
        self.observation_space = spaces.Box(0.0, 1.0, (18 if self.visible else 9,), np.float32)
        self.action_space = spaces.Discrete(4)

    @property
    def max_steps(self) -> int:
        """The length of every episode."""
        return self.steps

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> MazeTasks:
        """Draw mazes and their targets."""
        check_split(split)
        free = layouts(batch, self.size, generator)
        flat = free.flatten(1)
        rank = flat.cumsum(1) - 1
        apart = (rank + flat.sum(1, keepdim=True)) % PARTS == 0
        allowed = flat & (apart if split == "test" else ~apart)
        u = torch.rand(flat.shape, generator=generator, device=flat.device)
        return MazeTasks(free, u.masked_fill(~allowed, -1.0).argmax(1))

    def reset(self, tasks: MazeTasks, generator: torch.Generator) -> tuple[MazeState, Tensor]:
        """Draw where the agent starts."""
        batch, device = len(tasks.target), tasks.target.device
        walls = torch.ones(batch, self.width, self.width, device=device)
        walls[:, 1:-1, 1:-1] = (~tasks.open).float()
        allowed = tasks.open.flatten(1).clone()
        allowed.scatter_(1, tasks.target[:, None], False)
        cells = (~allowed).to(torch.int8).argsort(dim=1, stable=True)  # open ones first
        zero = torch.zeros_like(tasks.target)
        state = MazeState(
            tasks, walls.flatten(1), self._bordered(cells), allowed.sum(1),
            self._bordered(tasks.target), zero, zero,
        )  # fmt: skip
        state = state._replace(position=self._jump(state, generator))
        return state, self.observe(state)

    def step(
        self, state: MazeState, action: Tensor, generator: torch.Generator
    ) -> tuple[MazeState, Step]:
        """Walk one cell."""
        check_discrete(action, len(state.time), self.action_space)
        forward = 2 * (action.long() % 2) - 1  # down or to the right
        ahead = state.position + forward * torch.where(action < 2, self.width, 1)
        blocked = state.walls.gather(1, ahead[:, None])[:, 0] > 0
        position = torch.where(blocked, state.position, ahead)
        hit = position == state.target
        position = torch.where(hit, self._jump(state, generator), position)
        state = state._replace(position=position, time=state.time + 1)
        ended = state.time >= self.steps
        reward = REWARD * hit.float()
        info = {"hit": hit, "cell": self._inside(position)}
        return state, Step(self.observe(state), reward, ended, torch.zeros_like(ended), info)

    def observe(self, state: MazeState) -> Tensor:
        """The nine cells around the agent, `[B, 9]`; with a visible target, that too, `[B, 18]`."""
        near = torch.arange(-1, 2, device=state.position.device)
        around = state.position[:, None] + (self.width * near[:, None] + near).flatten()
        walls = state.walls.gather(1, around)
        if not self.visible:
            return walls
        return torch.cat([walls, (around == state.target[:, None]).to(walls)], 1)

    def render(self, state: MazeState, row: int = 0) -> np.ndarray:
        """One row from above, 16 × 16 pixels a cell, `[16 (n + 2), 16 (n + 2), 3]`."""
        walls = state.walls[row].reshape(self.width, self.width)
        return picture(walls.cpu().numpy(), int(state.target[row]), int(state.position[row]))

    def _jump(self, state: MazeState, generator: torch.Generator) -> Tensor:
        """An open cell that is not the target, for each row."""
        u = torch.rand(len(state.vacant), generator=generator, device=state.vacant.device)
        place = torch.minimum((u * state.vacant).long(), state.vacant - 1)
        return state.places.gather(1, place[:, None])[:, 0]

    def _inside(self, cell: Tensor) -> Tensor:
        """The number of a cell when the wall around is not counted."""
        row = cell.div(self.width, rounding_mode="floor")
        return self.size * (row - 1) + cell % self.width - 1

    def _bordered(self, cell: Tensor) -> Tensor:
        """The number of a cell when the wall around is counted, too."""
        row = cell.div(self.size, rounding_mode="floor")
        return self.width * (row + 1) + cell % self.size + 1
