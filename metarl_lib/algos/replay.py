"""What has been lived, for each task by itself: all of it for values, the latest for beliefs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor


class Transitions(NamedTuple):
    """Steps: `[*B, S]`, `[*B, A]`, `[*B]`, `[*B, S]`, `[*B]`, and what is seen of the reward.

    `reward` is what is learned from, `shown` what a belief is made of. They differ where
    training is helped by rewards that are not there at the test.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor
    terminal: Tensor
    shown: Tensor

    def context(self) -> Tensor:
        """What a belief is made of: s, a, r and s', `[*B, 2S + A + 1]`."""
        parts = self.observation, self.action, self.shown.unsqueeze(-1), self.following
        return torch.cat(parts, -1)


class Replay:
    """The last transitions of each of N tasks, as one tensor that is written round and round.

    Args:
        tasks: N.
        capacity: transitions that are kept of a task.
        observation: numbers of an observation, S.
        action: numbers of an action, A.
        device: where they are kept.
    """

    def __init__(
        self, tasks: int, capacity: int, observation: int, action: int,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.capacity = capacity
        self._parts = [observation, action, 1, observation, 1, 1]
        self.rows = torch.zeros(tasks, capacity, sum(self._parts), device=device)
        self.count = torch.zeros(tasks, dtype=torch.long, device=device)

    @property
    def size(self) -> Integer[Tensor, " N"]:
        """How many transitions of each task are there to be drawn."""
        return self.count.clamp(max=self.capacity)

    def add(
        self,
        tasks: Integer[Tensor, " B"],
        steps: Transitions,
        real: Bool[Tensor, "B t"],
    ) -> None:
        """Keep steps `[B, t]` of B different tasks; only those that are `real` count.

        Raises:
            ValueError: when a task is named twice, or there are more steps than are kept.
        """
        if len(tasks.unique()) != len(tasks):
            raise ValueError("tasks are named twice: give each of them once")
        if real.shape[1] > self.capacity:
            raise ValueError(
                f"{real.shape[1]} steps do not fit into capacity={self.capacity}: make it larger"
            )
        flat = torch.cat([p if p.ndim == 3 else p.unsqueeze(-1) for p in steps], -1)
        place = self.count[tasks, None] + real.cumsum(1) - 1
        which = tasks[:, None].expand_as(place)[real]
        self.rows[which, place[real] % self.capacity] = flat[real].to(self.rows)
        self.count[tasks] += real.sum(1)

    def draw(
        self, tasks: Integer[Tensor, " M"], batch: int, generator: torch.Generator
    ) -> Transitions:
        """`[M, batch]` transitions, uniformly and with repetition from those of each task."""
        share = torch.rand(
            len(tasks), batch, generator=generator, dtype=torch.float64, device=generator.device
        )
        size = self.size[tasks, None]
        place = (share * size).long().clamp(max=self.capacity - 1)
        found = self.rows[tasks[:, None], place].split(self._parts, -1)
        observation, action, reward, following, terminal, shown = found
        return Transitions(
            observation, action, reward[..., 0], following, terminal[..., 0] > 0, shown[..., 0]
        )


class Contexts:
    """The latest K episodes with each of N tasks, which are lived one after the other.

    Args:
        tasks: N.
        episodes: K.
        steps: the longest episode, T.
        numbers: of a transition, C.
        device: where they are kept.
    """

    def __init__(
        self, tasks: int, episodes: int, steps: int, numbers: int,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.rows = torch.zeros(tasks, episodes, steps, numbers, device=device)
        self.real = torch.zeros(tasks, episodes, steps, dtype=torch.bool, device=device)

    def put(
        self, tasks: Integer[Tensor, " B"], rows: Float[Tensor, "B K T C"],
        real: Bool[Tensor, "B K T"],
    ) -> None:  # fmt: skip
        """Forget what was lived with these tasks, and keep this."""
        self.rows[tasks], self.real[tasks] = rows.to(self.rows), real

    def draw(
        self, tasks: Integer[Tensor, " M"], most: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "M n C"], Bool[Tensor, "M n"]]:
        """A context of each task, at most so many of its transitions; see `subset`."""
        rows, real = self.rows[tasks], self.real[tasks]
        return subset(rows.flatten(1, 2), real.flatten(1), most, generator)


def subset(
    rows: Float[Tensor, "M L C"],
    real: Bool[Tensor, "M L"],
    most: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "M n C"], Bool[Tensor, "M n"]]:
    """At most so many of the real rows, drawn without repetition, and which of them are real."""
    if rows.shape[1] <= most:
        return rows, real
    key = torch.rand(real.shape, generator=generator, device=generator.device)
    place = key.masked_fill(~real, -1.0).topk(most, -1).indices
    return rows.take_along_dim(place[..., None], 1), real.take_along_dim(place, 1)
