"""Two small games on a board, after MinAtar: catch what falls, and get out of its way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.envs.base import OneTask, RowTasks, Step, check_discrete, one_hot
from metarl_lib.envs.option_checks import check_probability, check_whole


class CatchState(NamedTuple):
    """Columns of the player and of the fruit, the row of the fruit, steps so far, `[B]` each."""

    player: Tensor
    column: Tensor
    height: Tensor
    time: Tensor


class DodgeState(NamedTuple):
    """Where rocks are, `[B, height, width]` from the top, the player's column, steps, `[B]`."""

    rocks: Tensor
    player: Tensor
    time: Tensor


class _Game(OneTask):
    """What the two have in common: a board, a player in its bottom row, one task."""

    def __init__(self, width: int, height: int, steps: int) -> None:
        for name, value, least in (("width", width, 3), ("height", height, 2), ("steps", steps, 1)):
            check_whole(name, value, least)
        self.width, self.height, self.steps = width, height, steps
        self.observation_space = spaces.Box(0.0, 1.0, (width * (height + 1),), np.float32)
        self.action_space = spaces.Discrete(3)

    @property
    def max_steps(self) -> int:
        """Steps after which an episode is cut off."""
        return self.steps

    def _moved(self, player: Tensor, action: Tensor) -> Tensor:
        """Actions are 0, to the left; 1, stay; 2, to the right; walls stop the player."""
        check_discrete(action, len(player), self.action_space)
        return (player + action.long() - 1).clamp(0, self.width - 1)

    def _column(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randint(self.width, like.shape, generator=generator, device=like.device)


class Catch(_Game):
    """The batched environment behind `metarl/Catch-v0`: fruit falls, one at a time.

    A fruit starts in the top row, in a column drawn evenly, and falls one row a step, drifting to
    a neighbouring column with probability `drift` (to either side evenly; walls stop it). When it
    is in the bottom row the player, moved in the same step, earns 1 if it stands there, else −1,
    and the next fruit starts.

    The observation is the board with the fruit, row by row, and the player's column, both as
    ones among zeros, `[width · (height + 1)]`.

    Args:
        width: columns, at least 3.
        height: rows, at least 2.
        steps: after which an episode is cut off.
        drift: see above.

    There is one task, so that training and test coincide. `info["caught"]` says whether a fruit
    was caught.
    """

    def __init__(
        self, width: int = 7, height: int = 8, steps: int = 100, drift: float = 0.2
    ) -> None:
        super().__init__(width, height, steps)
        check_probability("drift", drift)
        self.drift = drift

    def reset(self, tasks: RowTasks, generator: torch.Generator) -> tuple[CatchState, Tensor]:
        """Draw where the player and the first fruit are."""
        zero = torch.zeros_like(tasks.row)
        player = self._column(zero, generator)
        state = CatchState(player, self._column(zero, generator), zero, zero)
        return state, self.observe(state)

    def step(
        self, state: CatchState, action: Tensor, generator: torch.Generator
    ) -> tuple[CatchState, Step]:
        """Move the player, then the fruit."""
        player = self._moved(state.player, action)
        u = torch.rand(player.shape, generator=generator, device=player.device)
        side = (u < self.drift).long() - 2 * (u < self.drift / 2).long()
        column, height = (state.column + side).clamp(0, self.width - 1), state.height + 1
        landed = height == self.height - 1
        caught = landed & (column == player)
        reward = 2 * caught.float() - landed.float()
        column = torch.where(landed, self._column(player, generator), column)
        state = CatchState(player, column, height.masked_fill(landed, 0), state.time + 1)
        late = state.time >= self.steps
        none = torch.zeros_like(late)
        return state, Step(self.observe(state), reward, none, late, {"caught": caught})

    def observe(self, state: CatchState) -> Tensor:
        """The board, then the player's column."""
        fruit = one_hot(state.height * self.width + state.column, self.width * self.height)
        return torch.cat([fruit, one_hot(state.player, self.width)], -1)


class Dodge(_Game):
    """The batched environment behind `metarl/Dodge-v0`: rocks fall, and one hit is the end.

    In each step the player moves, then all rocks fall one row, and each cell of the top row gets
    a new one with probability `density`. Each step pays 1. Where a rock falls onto the player, it
    pays nothing and the episode is `terminated`.

    The observation is the board with the rocks, row by row, and the player's column,
    `[width · (height + 1)]`.

    Args:
        width: columns, at least 3.
        height: rows, at least 2.
        steps: after which an episode is cut off.
        density: see above.

    There is one task, so that training and test coincide.
    """

    def __init__(
        self, width: int = 7, height: int = 6, steps: int = 200, density: float = 0.25
    ) -> None:
        super().__init__(width, height, steps)
        check_probability("density", density)
        self.density = density

    def reset(self, tasks: RowTasks, generator: torch.Generator) -> tuple[DodgeState, Tensor]:
        """An empty board; draw where the player stands."""
        player = self._column(tasks.row, generator)
        rocks = torch.zeros(len(player), self.height, self.width, device=player.device)
        state = DodgeState(rocks, player, torch.zeros_like(tasks.row))
        return state, self.observe(state)

    def step(
        self, state: DodgeState, action: Tensor, generator: torch.Generator
    ) -> tuple[DodgeState, Step]:
        """Move the player, then the rocks."""
        player = self._moved(state.player, action)
        shape, device = state.rocks[:, :1].shape, player.device
        fresh = torch.rand(shape, generator=generator, device=device) < self.density
        rocks = torch.cat([fresh.float(), state.rocks[:, :-1]], 1)
        hit = rocks[:, -1].gather(1, player.unsqueeze(-1)).squeeze(-1) > 0
        state = DodgeState(rocks, player, state.time + 1)
        late = (state.time >= self.steps) & ~hit
        return state, Step(self.observe(state), (~hit).float(), hit, late, {})

    def observe(self, state: DodgeState) -> Tensor:
        """The board, then the player's column."""
        return torch.cat([state.rocks.flatten(1), one_hot(state.player, self.width)], -1)
