"""Families of sinusoids, and of waves with their amplitudes and phases and other shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from metarl_lib.datasets.families import Tasks
from metarl_lib.datasets.sinusoids import sinusoid_samples, sinusoid_tasks
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
        train, held_out = (
            sinusoid_samples(a, p, count, generator=generator, wave=SHAPES[self.shape])
            for count in (self.num_train, self.num_held_out)
        )
        return Tasks(*train, *held_out)


@dataclass(frozen=True)
class SinusoidFamily(WaveFamily):
    """Sinusoids y = a sin(x + p); see `sinusoids.sinusoid_tasks`."""

    shape: str = field(default="sine", init=False, repr=False)
    num_train: int = 64
    num_held_out: int = 64
