"""What is read out of lives in mazes: what they earned, and what their memory holds."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.algos import Agent
from metarl_lib.envs.maze import MazeTasks
from metarl_lib.experiments.meta_training import play

PROBED_AT = (10, 25, 50, 99)
RIDGES = tuple(10.0**k for k in range(-4, 5))


def earned(rewards: Float[Tensor, "T B"]) -> dict[str, Tensor]:
    """Return, success and the steps to the first reward, `[B]` each."""
    hits = rewards > 0
    found, steps = hits.any(0), len(hits)
    first = torch.where(found, 1 + hits.int().argmax(0), steps)
    return {"return": rewards.sum(0), "success": found.float(), "first_reward": first.float()}


def probed(env: Any, agent: Agent, tasks: MazeTasks, stream: torch.Generator) -> dict[str, float]:
    """How well a linear reader finds two places in an agent's memory after some steps.

    `r2_target_<t>`: the share of the variance of the target's row and column that a ridge
    regression on all numbers of the memory after step t explains, in trials that it was not
    fitted to. `r2_target_view_<t>`: the same from what is seen after step t alone.
    `r2_position_<t>`: where the agent itself is, from memory.
    """
    memories, views = {}, {}

    def keep(t: int, observation: Tensor, outputs: Any, action: Tensor) -> None:
        if t in PROBED_AT:  # this memory has taken in what was seen after t steps
            memories[t] = torch.cat([part.reshape(len(part), -1) for part in outputs.state], 1)
            views[t] = observation

    cell = play(env, agent, tasks, stream, greedy=False, watch=keep).info["cell"]
    target, size = tasks.target, tasks.open.shape[-1]
    values = {}
    for t, memory in memories.items():
        goal, here = place(target, size), place(cell[t - 1], size)
        values[f"r2_target_{t}"], standing = explained(memory, goal, here)
        (values[f"r2_target_view_{t}"],) = explained(views[t], goal)
        values[f"r2_position_{t}"] = standing
    return values


def place(cell: Tensor, size: int) -> Float[Tensor, "B 2"]:
    """Row and column of cells, `[B]`, that are numbered row by row."""
    return torch.stack([cell.div(size, rounding_mode="floor"), cell % size], -1).double()


def explained(x: Float[Tensor, "B F"], *ys: Float[Tensor, "B 2"]) -> list[float]:
    """R² of a ridge regression in the last quarter of the rows, fitted to the others; for each y.

    Its strength is the one with the best R² in the third quarter when fitted to the first two.
    """
    half, most, y = len(x) // 2, 3 * len(x) // 4, torch.stack(ys, 1)
    best = _r2(x[:half], y[:half], x[half:most], y[half:most]).argmax(0, keepdim=True)
    found: list[float] = _r2(x[:most], y[:most], x[most:], y[most:]).gather(0, best)[0].tolist()
    return found


def _r2(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Float[Tensor, "R Y"]:
    """R² for each strength, which counts in units of the mean square of a row, and each y.

    With x xᵀ = U diag(e) Uᵀ of the rows, or xᵀ x = U diag(e) Uᵀ of the numbers where these are
    fewer, the fit is x_test xᵀ U diag(1 / (e + λ)) Uᵀ y, or x_test U diag(1 / (e + λ)) Uᵀ xᵀ y.
    """
    mean, level = x.mean(0), y.mean(0)
    x, x_test, y = (x - mean).double(), (x_test - mean).double(), (y - level).flatten(1)
    unit = (x.square().sum() / len(x)).clamp(min=1e-12)
    if len(x) <= x.shape[1]:
        e, u = torch.linalg.eigh(x @ x.T)
        seen, projected = x_test @ (x.T @ u), u.T @ y
    else:
        e, u = torch.linalg.eigh(x.T @ x)
        seen, projected = x_test @ u, u.T @ (x.T @ y)
    spread = (y_test - y_test.mean(0)).square().sum((0, 2))
    shares = []
    for r in RIDGES:
        fit = (seen @ (projected / (e + r * unit)[:, None])).view_as(y_test)
        shares.append(1 - (y_test - level - fit).square().sum((0, 2)) / spread)
    return torch.stack(shares)
