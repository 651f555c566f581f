"""Waves with the amplitudes and phases of the sinusoids, and other shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl_lib.datasets.families import Tasks
from metarl_lib.datasets.sinusoids import INPUTS, sinusoid_tasks
from metarl_lib.datasets.split import check_count, check_split

SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "sine": torch.sin,
    "square": lambda t: torch.sin(t).sign(),
    "sawtooth": lambda t: 2 * torch.remainder(t / (2 * math.pi), 1) - 1,
}
"""One period of each is 2π long and reaches from −1 to 1."""


@dataclass(frozen=True)
class WaveFamily:
    """Tasks y = a w(x + p) with a and p as in `sinusoid_tasks`, and a shape w.

    Args:
        shape: `"sine"`, `"square"` or `"sawtooth"`.
        num_train, num_held_out: samples of each task, x ~ U[−5, 5].

    Raises:
        ValueError: for another shape, or a number of samples below 1.
    """

    shape: str = "sine"
    num_train: int = 10
    num_held_out: int = 100
    inputs: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    kind: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r} is unknown: choose one of {', '.join(SHAPES)}")
        for name in ("num_train", "num_held_out"):
            check_count(name, getattr(self, name))

    def sample(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """Draw amplitudes and phases, then samples of each."""
        check_split(split)
        a, p = sinusoid_tasks(batch, generator=generator, split=split)
        (low, high), wave = INPUTS, SHAPES[self.shape]

        def samples(count: int) -> tuple[Tensor, Tensor]:
            u = torch.rand(batch, count, 1, generator=generator, device=generator.device)
            x = low + (high - low) * u
            return x, a[:, None, None] * wave(x + p[:, None, None])

        return Tasks(*samples(self.num_train), *samples(self.num_held_out))
