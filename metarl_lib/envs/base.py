"""What an environment is: batched tensors, explicit state, every draw from a given generator.

All B rows step at once. An environment object holds no state and no randomness of its own, only
its configuration: `reset` makes a state, `step` turns it into the next one. So one object can
serve many batches, a state can be kept and stepped again, and equal generators give equal runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from metarl_lib.datasets.split import check_split


class NotFiniteError(ValueError):
    """An action holds NaN or infinite values, as those of a policy that diverged do."""


class Step(NamedTuple):
    """What a step returns beside the new state.

    `observation` is `[B, …]`, `reward` `[B]`, `terminated` and `truncated` `[B]` booleans as in
    Gymnasium, `info` named tensors with a leading B.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    info: dict[str, Tensor]


@runtime_checkable
class BatchedEnv(Protocol):
    """An environment whose B rows are the leading dimension of every tensor.

    A *task* is one decision process, an *episode* one run of it. States and tasks are trees
    (tuples and lists) of tensors.
    """

    @property
    def observation_space(self) -> spaces.Space:
        """Of one row."""

    @property
    def action_space(self) -> spaces.Space:
        """Of one row."""

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Any:
        """Draw tasks of a split; `"train"` and `"test"` are disjoint."""

    def reset(self, tasks: Any, generator: torch.Generator) -> tuple[Any, Tensor]:
        """Start an episode of each task: the state, and the first observation, `[B, …]`."""

    def step(self, state: Any, action: Tensor, generator: torch.Generator) -> tuple[Any, Step]:
        """Take one action, `[B, …]`, in every row; the state that was given is not changed."""


@runtime_checkable
class BoundedEnv(BatchedEnv, Protocol):
    """A batched environment that says how long an episode can last."""

    @property
    def max_steps(self) -> int:
        """Steps after which every episode has ended."""


@runtime_checkable
class DrawnEnv(BatchedEnv, Protocol):
    """A batched environment that can be looked at."""

    def render(self, state: Any, row: int = 0) -> np.ndarray:
        """One row as a picture, `[height, width, 3]`, whole numbers from 0 to 255."""


class RowTasks(NamedTuple):
    """There is one task; `row` numbers the rows, `[B]`."""

    row: Tensor


class OneTask:
    """What environments with one task have in common."""

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> RowTasks:
        """The one task, for every row; nothing is drawn."""
        check_split(split)
        return RowTasks(torch.arange(batch, device=generator.device))


def map_tree(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Apply a function to the tensors of equal trees of tuples and lists."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    branches = [map_tree(function, *branch) for branch in zip(*trees, strict=True)]
    return type(first)(*branches) if hasattr(first, "_fields") else type(first)(branches)


def replace_rows(state: Any, rows: Tensor, fresh: Any) -> Any:
    """A state whose rows `rows` (a boolean mask `[B]`) are those of `fresh`, in order."""
    if bool(rows.all()):
        return fresh

    def replace(old: Tensor, new: Tensor) -> Tensor:
        merged = old.clone()
        merged[rows] = new
        return merged

    return map_tree(replace, state, fresh)


def where_rows(rows: Bool[Tensor, " B"], new: Any, old: Any) -> Any:
    """A state whose rows `rows` are those of `new` and whose others are those of `old`.

    Unlike with `replace_rows`, both have all B rows, so that nobody has to count those that
    are replaced, and nobody waits for the device.
    """

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return map_tree(choose, new, old)


def some_true(flags: Bool[Tensor, "..."]) -> bool:
    """Whether a flag is true, or may be.

    On the CPU a look is cheaper than work that nobody needs; elsewhere it would wait.
    """
    return not flags.is_cpu or bool(flags.any())


def one_hot(choice: Integer[Tensor, " B"], count: int) -> Float[Tensor, "B count"]:
    """1 in the column that was chosen, else 0; `F.one_hot` would look at the numbers."""
    return (choice.unsqueeze(-1) == torch.arange(count, device=choice.device)).float()


def check_action(action: Tensor, batch: int, space: spaces.Box) -> None:
    """An action must be finite and have the shape `[B, …]` of the space.

    Numbers are looked at on the CPU only: elsewhere the look would wait for the device.

    Raises:
        ValueError: names the shape that was given and the one that is wanted.
        NotFiniteError: says how many numbers are not finite.
    """
    wanted = (batch, *space.shape)
    if tuple(action.shape) != wanted:
        raise ValueError(
            f"action has shape {tuple(action.shape)}, {wanted} is wanted: the number of rows, "
            f"then the shape {space.shape} of the action space"
        )
    if action.is_cpu and not torch.isfinite(action).all():
        bad = int((~torch.isfinite(action)).sum())
        raise NotFiniteError(
            f"action holds {bad} NaN or infinite values: only finite numbers are allowed; "
            "look for a divergence in the policy"
        )


def check_discrete(action: Tensor, batch: int, space: spaces.Discrete) -> None:
    """An action must be one of 0 … n − 1 for each row, `[B]` whole numbers.

    Numbers are looked at on the CPU only: elsewhere the look would wait for the device.

    Raises:
        ValueError: names the shape, the kind or the number that was given, and what is wanted.
    """
    if tuple(action.shape) != (batch,):
        raise ValueError(
            f"action has shape {tuple(action.shape)}, ({batch},) is wanted: one number for each row"
        )
    if action.dtype == torch.bool or action.is_floating_point() or action.is_complex():
        raise ValueError(
            f"action holds {action.dtype}, whole numbers are wanted: give action.long()"
        )
    if action.is_cpu and bool(((action < 0) | (action >= space.n)).any()):
        bad = int(action[(action < 0) | (action >= space.n)][0])
        raise ValueError(f"action={bad} is unknown: choose one of 0 to {space.n - 1}")
