"""Sinusoids: the regression tasks of Finn, Abbeel & Levine (2017), section 5.1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metarl_lib.datasets.split import check_split

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, math.pi)
INPUTS = (-5.0, 5.0)
CELLS = 16


def sinusoid_tasks(
    batch: int, *, generator: torch.Generator, split: str = "train"
) -> tuple[Tensor, Tensor]:
    """Draw amplitudes a ~ U[0.1, 5] and phases p ~ U[0, π] of y = a sin(x + p), `[B]` each.

    The rectangle of (a, p) is a chessboard of 16 × 16 cells: training tasks lie on its white
    cells, test tasks on its black ones, so that no test task can be a training task.

    Args:
        batch: B, how many tasks.
        generator: the stream of the draws.
        split: `"train"` or `"test"`.
    """
    check_split(split)

    def uniform() -> Tensor:
        return torch.rand(batch, generator=generator, device=generator.device)

    row, column = uniform().mul(CELLS).long(), uniform().mul(CELLS // 2).long()
    column = 2 * column + (row + (split == "test")) % 2
    a = AMPLITUDES[0] + (AMPLITUDES[1] - AMPLITUDES[0]) * (row + uniform()) / CELLS
    p = PHASES[0] + (PHASES[1] - PHASES[0]) * (column + uniform()) / CELLS
    return a, p


def sinusoid_samples(
    a: Tensor,
    p: Tensor,
    samples: int,
    *,
    generator: torch.Generator,
    wave: Callable[[Tensor], Tensor] = torch.sin,
) -> tuple[Tensor, Tensor]:
    """Samples of each task: x ~ U[−5, 5] and y = a w(x + p), `[B, samples, 1]` each.

    The `wave` w is a sine, or another function of period 2π.
    """
    low, high = INPUTS
    u = torch.rand(len(a), samples, 1, generator=generator, device=generator.device)
    x = low + (high - low) * u
    return x, a[:, None, None] * wave(x + p[:, None, None])
