"""Random mazes by Prim's algorithm, many at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from metarl_lib.envs.base import some_true

LEAST_OPEN, MOST_OPEN = 42 / 64, 53 / 64
"""Share of the cells that is open: that of the emptiest and the fullest maze that is drawn in
Chalvidal, Serre & VanRullen (2022), figure 4a, with 42, 45, 45 and 53 of 64 cells open."""


def layouts(batch: int, size: int, generator: torch.Generator) -> Bool[Tensor, "B n n"]:
    """Mazes of n × n cells, true where a cell is open; all open cells are connected.

    Prim's algorithm with random weights of the cells: from one open cell on, always open the
    closed cell of the smallest weight that touches exactly one open one, until there is none.
    That is a tree. Then further cells that touch it are opened at random, which makes loops,
    until a share of all cells is open that is drawn for each maze, evenly between
    `LEAST_OPEN` and `MOST_OPEN`. (Should the tree be larger already, it stays as it is: where
    n is small, this is not seldom.)

    Args:
        batch: B.
        size: n, at least 2.
        generator: of all draws, on the device of the mazes.
    """
    cells = size * size
    device = generator.device
    weight = torch.rand(batch, size, size, generator=generator, device=device)
    first = torch.randint(cells, (batch,), generator=generator, device=device)
    closed = torch.ones(batch, cells, device=device)
    opened = torch.zeros(batch, size + 2, size + 2, device=device)  # with a border around
    inside = opened[:, 1:-1, 1:-1]  # a view
    closed.scatter_(1, first[:, None], 0.0)
    inside.copy_(1 - closed.view_as(inside))
    for _ in range(cells):
        frontier = (touching(opened) == 1) & (inside == 0)
        if not some_true(frontier):
            break
        cost = weight.masked_fill(~frontier, 2.0).flatten(1)
        chosen = cost.argmin(1, keepdim=True)
        there = torch.zeros_like(closed).scatter_(1, chosen, 1.0).view_as(inside)
        inside.add_(there * frontier)
    order = torch.rand(batch, cells, generator=generator, device=device)
    share = torch.rand(batch, generator=generator, device=device)
    low, high = round(LEAST_OPEN * cells), round(MOST_OPEN * cells)
    wanted = low + (share * (high - low + 1)).long().clamp(max=high - low)
    for _ in range(size):  # nearly always once: seldom there is too little that touches the tree
        needed = wanted - inside.sum((1, 2)).long()
        if not some_true(needed > 0):
            break
        touches = ((touching(opened) > 0) & (inside == 0)).flatten(1)
        rank = order.masked_fill(~touches, 2.0).argsort(1).argsort(1)
        inside.add_((touches & (rank < needed[:, None])).view_as(inside))
    return inside > 0


def touching(opened: Tensor) -> Tensor:
    """How many open cells each cell has beside, above and below it: `[B, n, n]`.

    Args:
        opened: 1 where a cell is open, with a border of zeros around, `[B, n + 2, n + 2]`.
    """
    rows = opened[:, :-2, 1:-1] + opened[:, 2:, 1:-1]
    return rows + opened[:, 1:-1, :-2] + opened[:, 1:-1, 2:]
