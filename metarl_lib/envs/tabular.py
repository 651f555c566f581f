"""A Markov decision process of few states, given by its tables and seen wholly or in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets.split import check_split
from metarl_lib.envs.base import Step, check_discrete, one_hot
from metarl_lib.envs.option_checks import check_whole


class TabularState(NamedTuple):
    """The state of the process, 0 … S − 1, and the number of steps made, `[B]` each."""

    place: Tensor
    time: Tensor


class Tabular:
    """A batched environment made of tables: S states, A actions.

    Args:
        transitions: p(s' | s, a), `[S, A, S]`, which sum to 1 over s'.
        rewards: r(s, a), `[S, A]`, paid for the action a in the state s.
        start: the distribution of the first state, `[S]`.
        steps: T of an episode. Their end is part of the task: `terminated`.
        shows: what is seen in each state, whole numbers from 0 on. States that show the same
            cannot be told apart. None: every state shows itself.
        show_time: shows the share of the steps that are left too, without which a process with
            an end is not Markov.

    An observation is one-hot, and `show_time` adds a number. There is one task, so that training
    and test tasks coincide; a task is one number per row, which says nothing.

    `info["place"]` is the state that the step led to, `[B]`.

    Raises:
        ValueError: for tables whose shapes do not fit, or that are no distributions.
    """

    def __init__(
        self,
        transitions: Tensor,
        rewards: Tensor,
        start: Tensor,
        steps: int,
        *,
        shows: Sequence[int] | None = None,
        show_time: bool = False,
    ) -> None:
        check_whole("steps", steps)
        states, actions = _sizes(rewards)
        _check_distributions("transitions", transitions, (states, actions, states))
        _check_distributions("start", start, (states,))
        shown = list(range(states)) if shows is None else [int(symbol) for symbol in shows]
        if len(shown) != states or min(shown) < 0:
            raise ValueError(
                f"shows={list(shown)}: must be {states} whole numbers >= 0, one for each state"
            )
        self.transitions, self.rewards, self.start = transitions, rewards, start
        self.steps, self.show_time = steps, show_time
        self.shows = torch.tensor(shown)
        self.symbols = max(shown) + 1
        self.observation_space = spaces.Box(0.0, 1.0, (self.symbols + show_time,), np.float32)
        self.action_space = spaces.Discrete(actions)

    @property
    def max_steps(self) -> int:
        """The length of every episode."""
        return self.steps

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Tensor:
        """Zeros, `[B]`: the tables are the only task."""
        check_split(split)
        return torch.zeros(batch, device=generator.device)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[TabularState, Tensor]:
        """Draw the first state of every row."""
        chances = self.start.to(tasks.device).expand(len(tasks), -1)
        place = _draw(chances, generator)
        state = TabularState(place, torch.zeros_like(place))
        return state, self.observe(state)

    def step(
        self, state: TabularState, action: Tensor, generator: torch.Generator
    ) -> tuple[TabularState, Step]:
        """Pay for the action, and draw the next state of every row."""
        check_discrete(action, len(state.place), self.action_space)
        device, chosen = state.place.device, action.long()
        reward = self.rewards.to(device)[state.place, chosen].float()
        place = _draw(self.transitions.to(device)[state.place, chosen], generator)
        state = TabularState(place, state.time + 1)
        ended = state.time >= self.steps
        step = Step(self.observe(state), reward, ended, torch.zeros_like(ended), {"place": place})
        return state, step

    def observe(self, state: TabularState) -> Tensor:
        """What the states show, `[B, symbols]`, and the time that is left if it is shown."""
        seen = one_hot(self.shows.to(state.place.device)[state.place], self.symbols)
        if not self.show_time:
            return seen
        left = 1 - state.time.to(seen) / self.steps
        return torch.cat([seen, left.unsqueeze(-1)], -1)


def _draw(chances: Tensor, generator: torch.Generator) -> Tensor:
    """One of the columns for each row."""
    return torch.multinomial(chances, 1, generator=generator).squeeze(-1)


def _sizes(rewards: Tensor) -> tuple[int, int]:
    if rewards.ndim != 2 or not rewards.numel() or not bool(rewards.isfinite().all()):
        raise ValueError(
            f"rewards of shape {tuple(rewards.shape)}: must be finite numbers [S, A], one for each "
            "action in each state"
        )
    return rewards.shape[0], rewards.shape[1]


def _check_distributions(name: str, table: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(table.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(table.shape)}, {shape} is wanted")
    sums = table.double().sum(-1)
    if not bool((table >= 0).all()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-6):
        raise ValueError(f"{name} holds no distributions: give numbers >= 0 that sum to 1")
