"""What can be earned in a maze: exactly, by walking at random and by knowing it; and by searching.

A maze is which cells are open, `[B, n, n]`, and the number of the target's cell, `[B]`. A step
goes to one of four neighbours, or nowhere if that is closed; reaching the target brings a
reward and a jump to another open cell, drawn evenly, as is the first one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

REWARD = 10.0
FAR = 10**4
"""Distance of what cannot be reached."""

Open = Bool[Tensor, "B n n"]
Target = Integer[Tensor, " B"]


class Outlook(NamedTuple):
    """What an agent can expect of `steps` steps, each `[B]`.

    `reward` is the expected sum of rewards, `success` the probability of a reward at all, and
    `first` the expected number of steps to the first reward, counted as `steps` where there is
    none.
    """

    reward: Tensor
    success: Tensor
    first: Tensor


def distances(
    passable: Bool[Tensor, "B m m"], goals: Bool[Tensor, "B m m"]
) -> Integer[Tensor, "B m m"]:
    """Steps from each cell to the nearest goal through passable cells; `FAR` where none leads.

    Goals need not be passable themselves: they are where ways end.
    """
    height, width = passable.shape[1:]
    bordered = torch.full(
        (len(passable), height + 2, width + 2), FAR, dtype=torch.int32, device=passable.device
    )
    found = bordered[:, 1:-1, 1:-1]  # a view
    found.masked_fill_(goals, 0)
    beyond = FAR * (~passable).to(found)
    for _ in range(height * width):
        upright = torch.minimum(bordered[:, :-2, 1:-1], bordered[:, 2:, 1:-1])
        level = torch.minimum(bordered[:, 1:-1, :-2], bordered[:, 1:-1, 2:])
        better = torch.minimum(upright, level).add_(1).add_(beyond)
        if bool((better >= found).all()):
            break
        torch.minimum(found, better, out=found)
    return found.clone()


def neighbours(values: Tensor, outside: float | int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What stands above, below, to the left and to the right of each cell, `[B, m, m]` each."""
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1), value=outside)
    middle = slice(1, -1)
    return (
        padded[:, :-2, middle],
        padded[:, 2:, middle],
        padded[:, middle, :-2],
        padded[:, middle, 2:],
    )


def random_walk(free: Open, target: Target, steps: int) -> Outlook:
    """The outlook of even choices among the four actions, exactly.

    The distribution over cells is carried on for `steps` steps, with its jumps, for the
    rewards; and a second time without them, for the first reward.
    """
    goal = at(target, free)
    start = even(free & ~goal)
    here, fresh = start.clone(), start.clone()
    reward = torch.zeros(len(free), dtype=torch.float64, device=free.device)
    first, waiting = reward.clone(), reward + 1
    for _ in range(steps):
        first += waiting  # each step that begins without a reward counts
        here, hit = walked(here, free, goal)
        reward += REWARD * hit
        here = here + hit[:, None, None] * start
        fresh, hit = walked(fresh, free, goal)
        waiting = waiting - hit
    return Outlook(reward, 1 - waiting, first)


def walked(mass: Tensor, free: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """A distribution after one random step, without what reached the goal, and that, `[B]`."""
    open_ = free.to(mass)
    leaving = mass / 4
    arrived = sum(neighbours(leaving, 0.0)) * open_
    blocked = 4 - sum(neighbours(open_, 0.0))
    mass = arrived + blocked * leaving
    hit = (mass * goal).sum((1, 2))
    return mass.masked_fill(goal, 0.0), hit


def shortest_path(free: Open, target: Target, steps: int) -> Outlook:
    """The outlook of who knows the maze, exactly: nobody earns more.

    With m steps left just after a jump, and cells at distance d with probability p_d,

        Q_m = Σ_{d <= m} p_d (10 + Q_{m-d}),    Q_0 = 0.
    """
    goal = at(target, free)
    away = distances(free, goal)
    start = even(free & ~goal)
    shares = torch.zeros(len(free), steps + 1, dtype=torch.float64, device=free.device)
    within = ((away <= steps) & (away < FAR)).flatten(1)
    shares.scatter_add_(1, away.flatten(1).clamp(max=steps).long(), start.flatten(1) * within)
    worth = torch.zeros_like(shares)
    for m in range(1, steps + 1):
        later = worth[:, :m].flip(1)  # Q_{m-1} … Q_0, for d = 1 … m
        worth[:, m] = (shares[:, 1 : m + 1] * (REWARD + later)).sum(1)
    success = shares.sum(1)
    first = (shares * torch.arange(steps + 1, device=free.device)).sum(1) + steps * (1 - success)
    return Outlook(worth[:, steps], success, first)


def least_search(free: Open, steps: int) -> Float[Tensor, " B"]:
    """The least number of steps to the first reward, on average over targets drawn evenly.

    A target that cannot be seen is found by stepping on it. A step enters one cell at most, and
    of the K − 1 open cells besides the first each is as likely to be the target; so the t-th
    step finds it with probability 1 / (K − 1) at most, whatever is done, known or remembered.
    Where all cells are entered once, without a detour, the average is K / 2. Steps beyond
    `steps` count as `steps`.
    """
    others = free.flatten(1).sum(1).double() - 1
    step = torch.arange(1, free[0].numel(), device=free.device).double()
    entered = step <= others[:, None]
    return (step.clamp(max=steps) * entered).sum(1) / others


def search(
    free: Open,
    target: Target,
    steps: int,
    generator: torch.Generator,
    *,
    remembers: bool = True,
    visible: bool = False,
) -> Float[Tensor, "T B"]:
    """The rewards of a systematic searcher, who knows where it is, and maps what it sees.

    It sees the nine cells around it. As long as it does not know the target, it goes the
    shortest way to the nearest cell where it has not been, and which may be open; afterwards,
    the shortest way to the target. What it has not seen counts as open. Among equally short
    ways it draws.

    It is told more than an agent in training, namely where it is after a jump. It is no upper
    bound, as it does not plan what to look at.

    Args:
        free: which cells are open.
        target: where the target is.
        steps: T.
        generator: of jumps and choices.
        remembers: keeps the map and the target over jumps; without, each jump begins a new
            search, as for an agent that does not learn.
        visible: the target is known once it has been in view, and it is enough to have had a
            cell in view; else both take stepping on it.
    """
    size, rows = free.shape[1], torch.arange(len(free), device=free.device)
    closed = torch.nn.functional.pad(~free, (1, 1, 1, 1), value=True)
    goal = torch.nn.functional.pad(at(target, free), (1, 1, 1, 1))
    places = torch.nn.functional.pad(free, (1, 1, 1, 1)) & ~goal
    kept = torch.zeros_like(closed)  # known to be closed
    been = torch.zeros_like(closed)
    aims = torch.zeros(len(free), dtype=torch.bool, device=free.device)
    here = drawn(places, generator)
    width, rewards = size + 2, []
    jumps = torch.tensor([-width, width, -1, 1], device=free.device)
    for _ in range(steps):
        row, column = here // width, here % width
        been[rows, row, column] = True
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                spot = rows, row + down, column + right
                kept[spot] = closed[spot]
                if visible:
                    been[spot] = True
                    aims = aims | goal[spot]
        wanted = torch.where(aims[:, None, None], goal, ~been & ~kept)
        left = torch.stack(neighbours(distances(~kept, wanted), FAR)).flatten(2)  # [4, B, m²]
        left = left[:, rows, here].T
        left = left + torch.rand(left.shape, generator=generator, device=left.device) / 2
        ahead = here + jumps[left.argmin(1)]
        blocked = closed.flatten(1)[rows, ahead]
        here = torch.where(blocked, here, ahead)
        hit = goal.flatten(1)[rows, here]
        here = torch.where(hit, drawn(places, generator), here)
        rewards.append(REWARD * hit.float())
        if remembers:
            aims = aims | hit
        else:
            kept, been = kept & ~hit[:, None, None], been & ~hit[:, None, None]
            aims = aims & ~hit
    return torch.stack(rewards)


def at(target: Target, free: Open) -> Open:
    """True in the target's cell alone."""
    goal = torch.zeros_like(free).flatten(1)
    return goal.scatter_(1, target[:, None], True).view_as(free)


def even(places: Tensor) -> Tensor:
    """The even distribution over the places that are true, `[B, n, n]`, in float64."""
    mass = places.double()
    return mass / mass.sum((1, 2), keepdim=True)


def drawn(places: Tensor, generator: torch.Generator) -> Tensor:
    """One of the places that are true, for each row: its number `[B]`."""
    u = torch.rand(places.shape, generator=generator, device=places.device)
    return u.masked_fill(~places, -1.0).flatten(1).argmax(1)
