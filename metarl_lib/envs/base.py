"""What an environment is: batched tensors, explicit state, every draw from a given generator.

All B rows step at once. An environment object holds no state and no randomness of its own, only
its configuration: `reset` makes a state, `step` turns it into the next one. So one object can
serve many batches, a state can be kept and stepped again, and equal generators give equal runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from torch import Tensor


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
        """Start an episode of each task: the state, and the first observation."""

    def step(self, state: Any, action: Tensor, generator: torch.Generator) -> tuple[Any, Step]:
        """Take one action in every row; the state that was given is not changed."""


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


def check_action(action: Tensor, batch: int, space: spaces.Box) -> None:
    """An action must be finite and have the shape `[B, …]` of the space.

    Raises:
        ValueError: names the shape that was given and the one that is wanted.
    """
    wanted = (batch, *space.shape)
    if tuple(action.shape) != wanted:
        raise ValueError(
            f"action has shape {tuple(action.shape)}, {wanted} is wanted: one row for each "
            f"network, then the shape {space.shape} of the action space"
        )
    if not torch.isfinite(action).all():
        bad = int((~torch.isfinite(action)).sum())
        raise ValueError(
            f"action holds {bad} NaN or infinite values: only finite numbers are allowed; "
            "look for a divergence in the policy"
        )
